"""How viral a sample is as a whole, and the false discovery rate that follows from it.

A calibrated probability holds for the mix of sequences that it was calibrated on. A sample of
soil with one virus in a thousand contigs holds far more false positives among its high scores
than such a mix. So the share of viruses is estimated from the sample itself, and the expected
false discovery rate is computed at that share; `p_virus` is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
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
_SHARES = 400
_LEAST_SHARE = 1e-4
_WITHIN = 1.92  # of the log-likelihood: 95%
# A larger sample than this says no more: what is known of classes of sequences holds the error.
MOST_RECORDS = 2_000


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

    def estimate(self) -> Sample:
        """The share of viruses in the sample, and what its scores mean at that share."""
        p, counts = self._sums / np.maximum(self._counts, 1), self._counts
        weight = min(1.0, MOST_RECORDS / max(1, counts.sum()))
        shares = np.concatenate([[0.0], np.geomspace(_LEAST_SHARE, 1.0, _SHARES)])
        odds = shares[:, None] * p / TRAINING_SHARE + (1 - shares[:, None]) * (1 - p) / (
            1 - TRAINING_SHARE
        )
        likely = weight * (np.log(np.maximum(odds, 1e-9)) @ counts)
        # imagined records of the training mix hold small samples to it
        held = likely + IMAGINED_RECORDS * np.log(np.maximum(shares * (1 - shares), 1e-9)) / 2
        within = shares[likely >= likely.max() - _WITHIN]
        share = float(shares[held.argmax()])
        low, high = min(share, float(within[0])), max(share, float(within[-1]))
        false = (1.0 - reweighed(p, share)) * counts
        from_top = np.cumsum(false[::-1])[::-1]
        records = np.cumsum(counts[::-1])[::-1]
        return Sample(share, low, high, from_top / np.maximum(records, 1))


@dataclass(frozen=True, slots=True)
class Sample:
    """The share of viruses in a sample, with its interval of 95%, and the rates that follow."""

    prevalence: float
    low: float
    high: float
    _rates: NDArray[np.float64]

    @property
    def compatible_with_none(self) -> bool:
        """Whether the scores are such as a sample without any virus has."""
        return self.low == 0.0

    def fdr(self, p_virus: NDArray[np.float64]) -> NDArray[np.float64]:
        """The expected share of false ones among all records that score at least this, (n,)."""
        rates: NDArray[np.float64] = self._rates[_bins(p_virus)]
        return rates

    def p_sample(self, p_virus: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of being viral in this sample, shape (n,)."""
        return reweighed(p_virus, self.prevalence)


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
