"""Vectors on disk: one HDF5 file per finished unit of work, and all of them merged.

Room 5. A file is written under another name, synced, renamed and the rename synced, so its name
stands for whole content. Each file holds `sequence_ids` (n, variable-length text) and
`embeddings` (n, d) float32, and says in attributes under which key and by which model it was
made. Its seal is over all of that, and nothing is read from a file whose seal is broken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from virnucpro.core.errors import DamagedError, OutputError
from virnucpro.core.files import commit_file, temporary_beside
from virnucpro.core.records import Embeddings
from virnucpro.engines.seals import SEAL_BYTES, is_sealed, read_seal, seal

_IDS, _VECTORS = "sequence_ids", "embeddings"
Attributes = Mapping[str, Any]


class ShardDamagedError(DamagedError):
    """A file of vectors that does not hold what it says."""


def write_shard(path: Path, embeddings: Embeddings, attributes: Attributes) -> None:
    """Commit one unit of work.

    Args:
        path: final name; its folder must exist.
        embeddings: every sequence of the unit, in the order of the unit.
        attributes: what decides the content: `key`, `input_digest`, `model_hash`, `dtype`.

    Raises:
        OutputError: it could not be written; nothing is left under the final name.
    """
    with committed(path) as file:
        file.create_dataset(_IDS, data=list(embeddings.seq_ids), dtype=h5py.string_dtype())
        file.create_dataset(_VECTORS, data=embeddings.vectors.astype("<f4", copy=False))
        file.attrs.update(attributes)


def is_whole(path: Path, key: str) -> bool:
    """Whether a committed file is there, made under `key`, and as it was sealed.

    Raises:
        ShardDamagedError: it fails its seal, or cannot say any more under which key it was made.
    """
    sealed = read_seal(path)
    if not path.exists() or (sealed is not None and sealed.key != key):
        return False
    if not is_sealed(path, sealed):
        raise ShardDamagedError(path, "fails its checksum")
    return True


def read_shard(path: Path, key: str) -> Embeddings | None:
    """A committed unit, checked; None if it is absent or was made under another key.

    Raises:
        ShardDamagedError: the file cannot be read or fails its seal.
    """
    if not is_whole(path, key):
        return None
    with _opened(path) as file:
        return Embeddings(tuple(file[_IDS].asstr()[:]), file[_VECTORS][:])


def read_ids(path: Path, key: str) -> tuple[str, ...] | None:
    """As `read_shard`, without the vectors."""
    if not is_whole(path, key):
        return None
    with _opened(path) as file:
        return tuple(file[_IDS].asstr()[:])


class MergedWriter:
    """Joins units in order into one file, one at a time in memory.

    Args:
        file: open for writing; see `committed`.
        rows: sequences of all units.
        dim: width of a vector.
    """

    def __init__(self, file: h5py.File, rows: int, dim: int) -> None:
        self.file, self.rows = file, rows
        self._ids = file.create_dataset(_IDS, (rows,), dtype=h5py.string_dtype())
        self._vectors = file.create_dataset(_VECTORS, (rows, dim), dtype="<f4")
        self._next = 0

    def add(self, embeddings: Embeddings, is_expected: Callable[[tuple[str, ...]], bool]) -> None:
        """Append a unit whose ids `is_expected` accepts.

        Raises:
            OutputError: other ids than the unit has, or more rows than were announced.
        """
        stop = self._next + len(embeddings)
        if not is_expected(embeddings.seq_ids) or stop > self.rows:
            raise OutputError(f"after row {self._next}: other sequences than were planned")
        if len(embeddings):
            self._ids[self._next : stop] = list(embeddings.seq_ids)
            self._vectors[self._next : stop] = embeddings.vectors
        self._next = stop

    def finish(self, attributes: Attributes) -> None:
        """State what the file holds.

        Raises:
            OutputError: sequences are missing.
        """
        if self._next != self.rows:
            raise OutputError(f"{self.rows - self._next} of {self.rows} vectors are missing")
        self.file.attrs.update(attributes)


@contextmanager
def committed(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that gets its final name once it is whole, sealed and synced.

    Raises:
        OutputError: it could not be written; what was under the final name is untouched.
    """
    temporary = temporary_beside(path)
    try:
        with h5py.File(temporary, "x", userblock_size=SEAL_BYTES) as file:
            yield file
            key = str(file.attrs.get("key", ""))
        seal(temporary, key)
        commit_file(temporary, path)
    except OutputError:
        raise
    except (OSError, RuntimeError) as error:  # HDF5 reports some failed writes as RuntimeError
        raise OutputError(f"{path}: could not be written ({error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ShardDamagedError(path, f"cannot be read ({error})") from error
