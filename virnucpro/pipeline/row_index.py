"""Find rows by sequence id, in a few bytes per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import h5py

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


def _as_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
