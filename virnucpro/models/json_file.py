"""JSON that lies beside weights: an object, or an error of the model.

Room 4 (batch -> one vector per ORF).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from virnucpro.core.errors import ModelError
from virnucpro.core.text import clipped

MAX_BYTES = 1 << 24


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelError: the file is missing, damaged, over 16 MiB, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError("over 16 MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, not an object")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged ({clipped(error)}); install the model again") from error
    return content
