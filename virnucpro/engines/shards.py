"""Vectors on disk: one HDF5 file per finished unit of work, and all of them merged.

Room 5. A file is written under another name, synced, renamed and the rename synced, so its name
stands for whole content. Each file holds `sequence_ids` (n, variable-length text) and
`embeddings` (n, d) float32, and says in attributes under which key and by which model it was
made; `checksum` is SHA-256 over ids and vectors. Nothing is read from a file whose seal is broken.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import DamagedError, OutputError
from virnucpro.core.files import commit_file
from virnucpro.core.records import Embeddings
from virnucpro.engines.seals import SEAL_BYTES, is_sealed, read_seal, seal

FORMAT = 1
BLOCK_ROWS = 10_000
_IDS, _VECTORS, _ROWS, _SUMS = "sequence_ids", "embeddings", "shard_rows", "shard_checksums"
Attributes = Mapping[str, Any]
Vectors = NDArray[np.float32]


class ShardDamagedError(DamagedError):
    """A file of vectors that does not hold what it says."""


def checksum(seq_ids: Sequence[str], vectors: Vectors) -> str:
    """Hex SHA-256 over ids and vectors, in order."""
    digest = hashlib.sha256("\n".join(seq_ids).encode())
    digest.update(np.ascontiguousarray(vectors, dtype="<f4").data)
    return digest.hexdigest()


def write_shard(path: Path, embeddings: Embeddings, attributes: Attributes) -> str:
    """Commit one unit of work; returns its checksum.

    Args:
        path: final name; its folder must exist.
        embeddings: every sequence of the unit, in the order of the unit.
        attributes: what decides the content: `key`, `input_digest`, `model_hash`, `dtype`.

    Raises:
        OutputError: it could not be written; nothing is left under the final name.
    """
    found = checksum(embeddings.seq_ids, embeddings.vectors)
    with committed(path) as file:
        file.create_dataset(_IDS, data=list(embeddings.seq_ids), dtype=h5py.string_dtype())
        file.create_dataset(_VECTORS, data=embeddings.vectors.astype("<f4", copy=False))
        file.attrs.update({**attributes, "format": FORMAT, "checksum": found})
    return found


def read_shard(path: Path, key: str) -> Embeddings | None:
    """A committed unit, checked; None if it is absent or was made under another key.

    Raises:
        ShardDamagedError: the file cannot be read or fails its checksum.
    """
    if not path.exists():
        return None
    sealed = read_seal(path)
    if sealed is not None and sealed.key != key:
        return None
    if not is_sealed(path, sealed):
        raise ShardDamagedError(path, "fails its checksum")
    try:
        with h5py.File(path, "r") as file:
            if str(file.attrs["key"]) != key or int(file.attrs["format"]) != FORMAT:
                return None
            ids = tuple(file[_IDS].asstr()[:])
            vectors = np.asarray(file[_VECTORS][:], dtype=np.float32)
            stated = str(file.attrs["checksum"])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ShardDamagedError(path, f"cannot be read ({error})") from error
    if vectors.ndim != 2 or len(ids) != len(vectors) or checksum(ids, vectors) != stated:
        raise ShardDamagedError(path, "fails its checksum")
    return Embeddings(ids, vectors)


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
        self._counts: list[int] = []
        self._sums: list[str] = []

    def add(self, embeddings: Embeddings, is_expected: Callable[[Embeddings], bool]) -> None:
        """Append a unit whose ids `is_expected` accepts.

        Raises:
            OutputError: other ids than the unit has, or more rows than were announced.
        """
        stop = self._next + len(embeddings)
        if not is_expected(embeddings) or stop > self.rows:
            raise OutputError(f"unit {len(self._counts)} holds other sequences than were planned")
        if len(embeddings):
            self._ids[self._next : stop] = list(embeddings.seq_ids)
            self._vectors[self._next : stop] = embeddings.vectors
        self._counts.append(len(embeddings))
        self._sums.append(checksum(embeddings.seq_ids, embeddings.vectors))
        self._next = stop

    def finish(self, attributes: Attributes) -> None:
        """State what the file holds.

        Raises:
            OutputError: sequences are missing.
        """
        if self._next != self.rows:
            raise OutputError(f"{self.rows - self._next} of {self.rows} vectors are missing")
        self.file.create_dataset(_ROWS, data=np.array(self._counts, dtype="<i8"))
        self.file.create_dataset(_SUMS, data=np.array(self._sums, dtype="S64"))
        self.file.attrs.update({**attributes, "format": FORMAT, "checksum": _join(self._sums)})


def merged_is_whole(path: Path, key: str) -> bool:
    """Whether a merged file made under `key` is there and passes every checksum."""
    sealed = read_seal(path)
    if sealed is None or sealed.key != key or not is_sealed(path, sealed):
        return False
    try:
        with h5py.File(path, "r") as file:
            if str(file.attrs["key"]) != key or int(file.attrs["format"]) != FORMAT:
                return False
            sums = [text.decode() for text in file[_SUMS][:].tolist()]
            bounds = np.cumsum([0, *file[_ROWS][:].tolist()]).tolist()
            if bounds[-1] != len(file[_VECTORS]) or str(file.attrs["checksum"]) != _join(sums):
                return False
            spans = zip(bounds[:-1], bounds[1:], sums, strict=True)
            return all(_span(file, start, stop) == stated for start, stop, stated in spans)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return False


def may_be_under(path: Path, key: str) -> bool:
    """Whether a file of vectors says that it was made under `key`, or cannot say any more."""
    sealed = read_seal(path)
    return path.exists() and (sealed is None or sealed.key == key)


def iterate_merged(path: Path, block_rows: int = BLOCK_ROWS) -> Iterator[Embeddings]:
    """Read a file of vectors in blocks of rows, in file order."""
    with h5py.File(path, "r") as file:
        for start in range(0, len(file[_VECTORS]), block_rows):
            stop = start + block_rows
            yield Embeddings(tuple(file[_IDS].asstr()[start:stop]), file[_VECTORS][start:stop])


@contextmanager
def committed(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file that gets its final name once it is whole and synced.

    Raises:
        OutputError: it could not be written; what was under the final name is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with h5py.File(temporary, "w", userblock_size=SEAL_BYTES) as file:
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


def _span(file: h5py.File, start: int, stop: int) -> str:
    if start == stop:
        return checksum((), np.empty((0, 0), dtype=np.float32))
    return checksum(tuple(file[_IDS].asstr()[start:stop]), file[_VECTORS][start:stop])


def _join(sums: Sequence[str]) -> str:
    return hashlib.sha256("".join(sums).encode()).hexdigest()
