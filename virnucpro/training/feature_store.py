"""Vectors of labelled windows on disk, block by block, made once and then read at random.

A block is a pair of files: `{name}-{k}.npy` with vectors (rows, d) float32, and
`{name}-{k}.rows.npy` with the window and the target of each row (rows, 2) int64.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.checkpoint import StageLedger
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.core.progress import ProgressReporter
from virnucpro.core.records import Orf
from virnucpro.pipeline.direct import DirectEncoder
from virnucpro.training.corpus import VIRUS
from virnucpro.training.scoring import as_records
from virnucpro.training.windows import LabelledWindows

BLOCK_WINDOWS = 1_000


@dataclass(frozen=True, slots=True)
class Features:
    """All rows of one store, vectors still on disk.

    Attributes:
        blocks: vectors of each block, (rows, d) float32, memory-mapped.
        window: window of each row, shape (rows,), over all blocks.
        viral: whether it is viral, shape (rows,).
        windows: number of windows, those without a row included.
    """

    blocks: tuple[NDArray[np.float32], ...]
    window: NDArray[np.int64]
    viral: NDArray[np.bool_]
    windows: int

    def __len__(self) -> int:
        return len(self.window)

    @property
    def width(self) -> int:
        """Columns of a vector."""
        return int(self.blocks[0].shape[1])

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of some rows, in the order given: shape (len(rows), d)."""
        ends = np.cumsum([len(block) for block in self.blocks])
        block_of = np.searchsorted(ends, rows, side="right")
        out = np.empty((len(rows), self.width), dtype=np.float32)
        for k in np.unique(block_of).tolist():
            here = block_of == k
            first = int(ends[k]) - len(self.blocks[k])
            out[here] = self.blocks[k][rows[here] - first]
        return out


class FeatureStore:
    """A folder of blocks; finished ones are kept as long as they are what would be made.

    Args:
        folder: where the blocks lie.
        encoder: the model's encoders.
        stop_at: `time.monotonic()` after which no further block is begun (s).
    """

    def __init__(self, folder: Path, encoder: DirectEncoder, stop_at: float = float("inf")) -> None:
        self.folder, self.encoder, self.stop_at = folder, encoder, stop_at
        self._ledger = StageLedger(folder / "ledger", repair=True)

    def embed(
        self, name: str, drawn: Sequence[LabelledWindows], progress: ProgressReporter
    ) -> Features | None:
        """Embed windows; None if time was up before the last block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        parts = [(w, first) for w in drawn for first in range(0, len(w.labels), BLOCK_WINDOWS)]
        before = 0
        with progress.create_file_bar(len(parts), desc=f"Embedding {name}", unit="blocks") as bar:
            for k, (windows, first) in enumerate(parts):
                if not self._block(f"{name}-{k:05d}", windows, first, before):
                    return None
                before += len(windows.labels[first : first + BLOCK_WINDOWS])
                bar.update()
        return self._open([f"{name}-{k:05d}" for k in range(len(parts))], before)

    def _block(self, unit: str, windows: LabelledWindows, first: int, before: int) -> bool:
        bases = windows.bases[first : first + BLOCK_WINDOWS]
        labels = windows.labels[first : first + BLOCK_WINDOWS]
        model = self.encoder.model
        key = digest_of(
            model.dna.identity(), model.protein.identity(), str(model.orf_policy), model.chunk_nt,
            bases.tobytes().hex(), [label.target for label in labels], before,
        )  # fmt: skip
        paths = self._paths(unit)
        if self._ledger.is_done(unit, key, paths):
            return True
        if time.monotonic() > self.stop_at:
            return False
        _, found = self.encoder.orfs(list(as_records(bases)))
        rows: list[tuple[int, int]] = []
        orfs: list[Orf] = []
        for number, groups in enumerate(found):
            own = [orf for group in groups for orf in group]
            orfs += own
            rows += [(before + number, int(labels[number].target == VIRUS))] * len(own)
        vectors = self.encoder.vectors(orfs).vectors
        for path, values in zip(paths, (vectors, np.array(rows).reshape(-1, 2)), strict=True):
            with atomic_write(path) as file:
                np.save(file, values, allow_pickle=False)
        self._ledger.commit(unit, key, paths)
        return True

    def _paths(self, unit: str) -> list[Path]:
        return [self.folder / f"{unit}.npy", self.folder / f"{unit}.rows.npy"]

    def _open(self, units: Sequence[str], windows: int) -> Features:
        paths = [self._paths(unit) for unit in units]
        rows = np.concatenate([np.load(p, allow_pickle=False) for _, p in paths]).astype(np.int64)
        blocks = tuple(np.load(p, mmap_mode="r", allow_pickle=False) for p, _ in paths)
        return Features(blocks, rows[:, 0], rows[:, 1] == 1, windows)
