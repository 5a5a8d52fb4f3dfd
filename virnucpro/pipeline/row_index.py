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
from virnucpro.core.text import clipped
from virnucpro.sequences.fasta_files import read_fasta

logger = logging.getLogger("virnucpro.pipeline.prediction")

BLOCK_ROWS = 10_000


class RowIndex:
    """Rows of n ids; takes 16 bytes for each, 24 while it is made, however long ids are.

    Ids are told apart by 64 bits of their hash; the few that share all of them are kept whole.

    Args:
        ids: n ids in row order, bytes or str; read in blocks.

    >>> RowIndex([b"b", b"a"]).rows(["a", "c", "b"]).tolist()
    [1, -1, 0]
    """

    def __init__(self, ids: Sequence[bytes | str] | h5py.Dataset) -> None:
        hashes = np.empty(len(ids), dtype=np.int64)
        for start in range(0, len(ids), BLOCK_ROWS):
            block = ids[start : start + BLOCK_ROWS]
            hashes[start : start + len(block)] = [hash(_as_bytes(value)) for value in block]
        self._order = np.argsort(hashes, kind="stable")
        hashes[:] = hashes[self._order]
        self._sorted = hashes
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        self._alike: dict[bytes, int] = {}
        for row in np.unique(self._order[np.concatenate([same, same + 1])]).tolist():
            self._alike.setdefault(_as_bytes(ids[row]), row)

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, shape (len(ids),); -1 where there is none."""
        encoded = [seq_id.encode() for seq_id in ids]
        rows = np.full(len(ids), -1, dtype=np.int64)
        if not len(self._sorted) or not len(ids):
            return rows
        wanted = np.array([hash(value) for value in encoded], dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        found = self._sorted[places] == wanted
        rows[found] = self._order[places[found]]
        if self._alike:
            for place, value in enumerate(encoded):
                rows[place] = self._alike.get(value, rows[place])
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
        self._index = RowIndex(self._file["sequence_ids"])

    def of(self, ids: Sequence[str]) -> Embeddings:
        """The vectors of `ids` in their order; an id without a row is warned of and left out."""
        rows = self._index.rows(ids)
        for place in np.flatnonzero(rows < 0).tolist():
            logger.warning("Sequence %s not found in %s", clipped(ids[place]), self._title)
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


def write_dna_files(h5_path: Path, split_files: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Shard order -> file order for DNA vectors: ids and their order come from the split files."""
    from virnucpro.pipeline.feature_files import write_dna_features

    with VectorFile(h5_path, "v2.0 DNABERT-S output") as vectors:
        for split_file, output in zip(split_files, outputs, strict=True):
            write_dna_features(output, vectors.of([name for name, _ in read_fasta(split_file)]))
