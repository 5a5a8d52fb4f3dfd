"""Find rows by sequence id, in a few bytes per row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray

from virnucpro.core.records import Embeddings

logger = logging.getLogger("virnucpro.pipeline.prediction")

BLOCK_ROWS = 10_000


class RowIndex:
    """Rows of n ids; takes 8 bytes and the length of the longest id for each.

    Args:
        ids: shape (n,), byte strings in row order.

    >>> RowIndex(np.array([b"b", b"a"])).rows(["a", "c", "b"]).tolist()
    [1, -1, 0]
    """

    def __init__(self, ids: NDArray[np.bytes_]) -> None:
        self._order = np.argsort(ids, kind="stable")
        self._sorted = ids[self._order]

    @classmethod
    def of_dataset(cls, dataset: h5py.Dataset) -> RowIndex:
        """Index a dataset of text, read in blocks; bytes and str are the same id."""
        blocks = [
            np.array([_as_bytes(value) for value in dataset[start : start + BLOCK_ROWS]])
            for start in range(0, len(dataset), BLOCK_ROWS)
        ]
        return cls(np.concatenate(blocks) if blocks else np.empty(0, dtype="S1"))

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, shape (len(ids),); -1 where there is none."""
        encoded = [seq_id.encode() for seq_id in ids]
        wanted = np.array(encoded, dtype=self._sorted.dtype)  # cuts longer ids: checked below
        rows = np.full(len(ids), -1, dtype=np.int64)
        if not len(self._sorted) or not len(ids):
            return rows
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        found = self._sorted[places] == wanted
        found &= np.array([len(value) for value in encoded]) <= self._sorted.dtype.itemsize
        rows[found] = self._order[places[found]]
        return rows


class VectorFile:
    """An HDF5 file of vectors, read by id.

    Args:
        path: datasets `sequence_ids` (n,) and `embeddings` (n, d) float32, in any order.
        title: what the file is, for warnings about ids that it lacks.
    """

    def __init__(self, path: Path, title: str) -> None:
        self._file = h5py.File(path, "r")
        self._title = title
        self._vectors = self._file["embeddings"]
        self._index = RowIndex.of_dataset(self._file["sequence_ids"])

    def of(self, ids: Sequence[str]) -> Embeddings:
        """The vectors of `ids` in their order; an id without a row is warned of and left out."""
        rows = self._index.rows(ids)
        for place in np.flatnonzero(rows < 0).tolist():
            logger.warning("Sequence %s not found in %s", ids[place], self._title)
        found = np.flatnonzero(rows >= 0)
        in_file_order = found[np.argsort(rows[found])]  # HDF5 reads rising rows only
        vectors = np.empty((len(ids), self._vectors.shape[1]), dtype=np.float32)
        if len(found):
            vectors[in_file_order] = self._vectors[rows[in_file_order]]
        return Embeddings(tuple(ids[place] for place in found.tolist()), vectors[found])

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


def _as_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
