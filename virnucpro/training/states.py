"""What a training run saved, read back by the next call, and by no other run's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from virnucpro.core.errors import ModelError, UsageError
from virnucpro.core.files import atomic_write


def read_state(path: Path, device: torch.device, made_from: str) -> dict[str, Any]:
    """A saved state.

    Args:
        path: of the file.
        device: where its tensors go.
        made_from: digest of the recipe and the data that it must be of.

    Raises:
        UsageError: it is of another recipe or of other data.
        ModelError: it is damaged, or holds more than numbers.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        found = state["made_from"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError) as error:
        problem = f"{path}: damaged; remove {path.parent} to start over"
        raise ModelError(problem) from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: refused, it holds more than weights") from error
    if found != made_from:
        raise UsageError(
            f"{path} was made with another recipe or other data; give another --run-dir, or "
            f"remove {path.parent} to start over"
        )
    return state


def cut_log(path: Path, step: int) -> None:
    """Forget looks at dev that a killed run took after the state of `step`, which it saved."""
    if not path.exists():
        return
    head, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [row for row in rows if int(row.split("\t", 1)[0]) <= step]
    with atomic_write(path, "w") as file:
        file.writelines([head, *kept])
