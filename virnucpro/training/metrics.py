"""Figures of merit from scores and labels; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Truth = NDArray[np.bool_]


def auroc(scores: Floats, positive: Truth) -> float:
    """Chance that a positive scores above a negative; ties count half. NaN without both.

    >>> auroc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))


def auprc(scores: Floats, positive: Truth) -> float:
    """Average precision: precision at each positive, tied scores taken together."""
    if not positive.any():
        return float("nan")
    _, inverse = np.unique(-scores, return_inverse=True)
    found = np.bincount(inverse, positive)
    called = np.bincount(inverse)
    precision = found.cumsum() / called.cumsum()
    return float((precision * found).sum() / positive.sum())


def mcc(called: Truth, positive: Truth) -> float:
    """Matthews correlation coefficient of calls; 0 where it is not defined."""
    tp = float((called & positive).sum())
    tn = float((~called & ~positive).sum())
    fp = float((called & ~positive).sum())
    fn = float((~called & positive).sum())
    below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / below**0.5 if below else 0.0


def recall_at(scores: Floats, positive: Truth, false_positive_rate: float) -> float:
    """Share of positives above the score that `false_positive_rate` of negatives exceed."""
    negatives = np.sort(scores[~positive])
    if not len(negatives) or not positive.any():
        return float("nan")
    allowed = int(np.floor(false_positive_rate * len(negatives)))
    limit = negatives[len(negatives) - 1 - allowed] if allowed < len(negatives) else -np.inf
    return float((scores[positive] > limit).mean())


def reliability(
    p: Floats, positive: Truth, bins: int = 15, weight: Floats | None = None
) -> list[tuple[float, float, int]]:
    """Mean probability, observed share and count in each bin of equal width that holds any.

    Args:
        p: probabilities, shape (n,).
        positive: which are positive, shape (n,).
        bins: number of bins.
        weight: of each in the two means, shape (n,); None weighs all the same.
    """
    which = np.minimum((p * bins).astype(np.int64), bins - 1)
    weight = np.ones(len(p)) if weight is None else weight
    rows = []
    for index in np.unique(which):
        inside = which == index
        w = weight[inside] / weight[inside].sum()
        mean, share = (w * p[inside]).sum(), (w * positive[inside]).sum()
        rows.append((float(mean), float(share), int(inside.sum())))
    return rows


def ece(p: Floats, positive: Truth, bins: int = 15, weight: Floats | None = None) -> float:
    """Expected calibration error over bins of equal width; `weight` as in `reliability`."""
    if not len(p):
        return float("nan")
    which = np.minimum((p * bins).astype(np.int64), bins - 1)
    weight = np.full(len(p), 1 / len(p)) if weight is None else weight / weight.sum()
    return float(np.abs(np.bincount(which, weight * (p - positive))).sum())


def balanced(positive: Truth) -> Floats:
    """Weights under which positives and negatives count the same in sum: shape (n,)."""
    share = float(positive.mean()) if len(positive) else 0.5
    return np.where(positive, 0.5 / max(share, 1e-9), 0.5 / max(1 - share, 1e-9))
