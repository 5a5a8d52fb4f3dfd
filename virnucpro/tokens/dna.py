"""DNA to DNABERT-S token ids: byte pair encoding with the published vocabulary.

Room 2 (ORFs -> token ids).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError
from virnucpro.core.text import clipped

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class BpeTokenizer:
    """Token ids as `tokenizer.json` defines them, CLS and SEP included; nothing is cut off.

    The file is read at the first use, so that an object travels to a worker process as a path.

    Raises:
        ModelError: at the first use, if the file is missing or is no tokenizer.
    """

    def __init__(self, tokenizer_json: Path) -> None:
        self.path = Path(tokenizer_json)
        self._loaded: Tokenizer | None = None

    def encode(self, sequence: str) -> NDArray[np.int64]:
        """Token ids with CLS and SEP: shape (tokens,), int64."""
        return np.array(self._tokenizer.encode(sequence).ids, dtype=np.int64)

    def encode_batch(self, sequences: Sequence[str]) -> list[NDArray[np.int64]]:
        """As `encode` for each of `sequences`, on all cores; other threads run meanwhile."""
        encodings = self._tokenizer.encode_batch(list(sequences))
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._loaded is None:
            self._loaded = _load(self.path)
        return self._loaded

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_loaded": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _load(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ModelError(f"{path}: no tokenizer here; fetch the model again")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no subclass of it
        raise ModelError(f"{path}: not a tokenizer.json: {clipped(error)}") from error
    # A published file may ask for truncation or padding; both would change the vectors.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
