"""A digest at the head of an HDF5 file, checked before the HDF5 library sees the rest.

Room 5. The library is C, and a damaged file can make it take any amount of memory. HDF5 leaves
room before its own content, the user block, which other readers pass over.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, NamedTuple

SEAL_BYTES = 512  # the least that HDF5 allows
_BLOCK_BYTES = 1 << 20


class Seal(NamedTuple):
    """What a file says of itself: the key it was made under, and SHA-256 of what follows."""

    key: str
    sha256: str


def seal(path: Path, key: str) -> None:
    """Write the seal of a file that was made with a user block of `SEAL_BYTES`, and sync it.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("r+b") as file:
        text = json.dumps(Seal(key, _digest(file))._asdict()).encode()
        file.seek(0)
        file.write(text.ljust(SEAL_BYTES))
        file.flush()
        os.fsync(file.fileno())


def read_seal(path: Path) -> Seal | None:
    """The seal of a file; None where there is none that can be read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(SEAL_BYTES))
        return Seal(str(found["key"]), str(found["sha256"]))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def is_sealed(path: Path, found: Seal | None) -> bool:
    """Whether the content of a file is what its seal says."""
    if found is None:
        return False
    try:
        with path.open("rb") as file:
            return _digest(file) == found.sha256
    except OSError:
        return False


def _digest(file: IO[bytes]) -> str:
    """SHA-256 of all behind the seal."""
    digest = hashlib.sha256()
    file.seek(SEAL_BYTES)
    while block := file.read(_BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()
