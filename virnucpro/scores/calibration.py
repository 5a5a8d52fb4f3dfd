"""Chunk scores -> one probability and one call for each contig."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEAST = 1e-7


@dataclass(frozen=True, slots=True)
class Calibration:
    """Without parameters: the logistic of the mean chunk log-odds, called at one half."""

    @classmethod
    def load(cls, path: Path | None) -> Calibration:
        """Read the parameters of a model; None means that it has none."""
        return cls()

    def contigs(
        self,
        scores: NDArray[np.float64],
        lengths: NDArray[np.int64],
        contig_of: NDArray[np.int64],
        contigs: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
        """Call contigs from their chunks.

        Args:
            scores: P(other), P(virus) and P(null) of each chunk, shape (chunks, 3); P(null) is
                NaN where the model has no such class.
            lengths: of the chunks (nt), shape (chunks,).
            contig_of: the contig of each chunk, shape (chunks,), rising.
            contigs: how many contigs there are, those without chunks included.

        Returns:
            p_virus, shape (contigs,), and calls (`virus`, `non-virus`, `uncertain`); both are
            without meaning for a contig without chunks.
        """
        other, virus = np.clip(scores[:, :2], LEAST, 1.0).T
        chunks = np.bincount(contig_of, minlength=contigs)
        sums = np.bincount(contig_of, weights=np.log(virus) - np.log(other), minlength=contigs)
        p_virus = 1.0 / (1.0 + np.exp(-sums / np.maximum(chunks, 1)))
        return p_virus, np.where(p_virus >= 0.5, "virus", "non-virus")
