"""How viral a sample is as a whole, and the false discovery rate that follows from it.

A calibrated probability holds for the mix of sequences that it was calibrated on. A sample of
soil with one virus in a thousand contigs holds far more false positives among its high scores
than such a mix. So the share of viruses is estimated from the sample itself, and the expected
false discovery rate is computed at that share; `p_virus` is left as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The mix that calibrated probabilities hold for.
TRAINING_SHARE = 0.5
# Records with the training mix that every sample is imagined to hold besides its own: without
# them, one record alone would be taken for proof that all are viral, or none.
IMAGINED_RECORDS = 20.0

_STEP = 0.02  # of the log-odds
_LIMIT = 16.2  # log-odds of 1 - 1e-7
_BINS = round(2 * _LIMIT / _STEP)
_LEAST = 1e-7
_ROUNDS = 1_000
_CLOSE = 1e-7


class Composition:
    """The scores of one sample, counted in fine bins: bounded memory whatever the sample.

    A bin is 0.02 wide in log-odds, so that the corrected probabilities of its records differ by
    less than half a percent.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, dtype=np.int64)
        self._sums = np.zeros(_BINS, dtype=np.float64)

    def add(self, p_virus: NDArray[np.float64]) -> None:
        """Count calibrated probabilities, shape (n,)."""
        bins = _bins(p_virus)
        self._counts += np.bincount(bins, minlength=_BINS)
        self._sums += np.bincount(bins, weights=np.clip(p_virus, _LEAST, 1 - _LEAST),
                                  minlength=_BINS)  # fmt: skip

    def viral_share(self) -> float:
        """The most plausible share of viruses in the sample, 0 to 1: expectation maximisation.

        `IMAGINED_RECORDS` hold small samples to the training share.

        Source:
            Saerens, Latinne and Decaestecker 2002, Neural Computation 14:21-41.
        """
        p, counts = self._means(), self._counts
        total = counts.sum() + IMAGINED_RECORDS
        share = TRAINING_SHARE
        for _ in range(_ROUNDS):
            viral = float((reweighed(p, share) * counts).sum())
            last, share = share, (viral + IMAGINED_RECORDS * TRAINING_SHARE) / total
            if abs(share - last) < _CLOSE:
                break
        return share

    def fdr(self) -> FdrCurve:
        """Expected false discovery rate among the records at least as viral as a score."""
        p, counts = self._means(), self._counts
        share = self.viral_share()
        false = (1.0 - reweighed(p, share)) * counts
        from_top = np.cumsum(false[::-1])[::-1]
        records = np.cumsum(counts[::-1])[::-1]
        return FdrCurve(from_top / np.maximum(records, 1), share)

    def _means(self) -> NDArray[np.float64]:
        """Mean probability of each bin's records."""
        means: NDArray[np.float64] = self._sums / np.maximum(self._counts, 1)
        return means


class FdrCurve:
    """False discovery rate by score, and the estimated share of viruses in the sample."""

    def __init__(self, rates: NDArray[np.float64], viral_share: float) -> None:
        self._rates, self.viral_share = rates, viral_share

    def at(self, p_virus: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rate among all records that score at least this, shape (n,)."""
        rates: NDArray[np.float64] = self._rates[_bins(p_virus)]
        return rates


def reweighed(p_virus: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Probabilities calibrated at `TRAINING_SHARE` of viruses, as they are at another share.

    >>> reweighed(np.array([0.5, 0.9]), share=0.1).round(3).tolist()
    [0.1, 0.5]
    """
    viral = p_virus * (share / TRAINING_SHARE)
    other = (1.0 - p_virus) * ((1.0 - share) / (1.0 - TRAINING_SHARE))
    corrected: NDArray[np.float64] = viral / (viral + other)
    return corrected


def _bins(p_virus: NDArray[np.float64]) -> NDArray[Any]:
    p = np.clip(p_virus, _LEAST, 1.0 - _LEAST)
    place = (np.log(p) - np.log1p(-p) + _LIMIT) / _STEP
    return np.clip(place.astype(np.int64), 0, _BINS - 1)
