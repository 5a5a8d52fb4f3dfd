"""Fit a model's calibration on dev windows: slopes by length, gain by contigs, limits by error.

Dev sets weigh the same: viral windows together as much as cellular ones, and each viral set as
much as the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from virnucpro.scores.calibration import Calibration, raw_log_odds
from virnucpro.training.corpus import NULL, VIRUS, Corpus
from virnucpro.training.windows import LabelledWindows, dev_windows

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

CHUNK_LENGTHS = (150, 300, 500, 1000)
CONTIG_LENGTHS = (1000, 2000, 5000)
CALIBRATION_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Error rates that the default call must keep on dev.

    Attributes:
        cellular: cellular windows called virus.
        null: windows of each kind of null (random, shuffled, low complexity) called virus.
        real_as_null: real windows that the null rule turns to `uncertain`.
        chunk_nt: length of the chunks that contigs are cut into.
    """

    cellular: float = 0.03
    null: float = 0.006
    real_as_null: float = 0.01
    chunk_nt: int = 500


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of contigs of one length: chunk scores (n * chunks, 3); the rest (n,)."""

    length_nt: int
    chunks: int
    scores: Floats
    target: NDArray[np.int64]
    kind: NDArray[np.str_]
    weight: Floats


def fit_calibration(
    score: Score, sets: dict[str, Corpus], count: int = 2000, limits: Limits | None = None
) -> Calibration:
    """Fit on windows drawn from the dev sets with a seed of their own.

    Args:
        score: maps windows (n, length) to P(other), P(virus), P(null), shape (n, 3).
        sets: dev sets by name.
        count: windows of each set and length.
        limits: error rates to keep; None means the defaults.
    """
    limits = limits or Limits()
    tried = (_scored(score, sets, n, n, count) for n in CHUNK_LENGTHS)
    single = [s for s in tried if s is not None]
    if not single:
        return Calibration()
    fits = [_platt(raw_log_odds(s.scores), s) for s in single]
    calibration = Calibration(
        lengths_nt=tuple(float(s.length_nt) for s in single),
        slope=tuple(a for a, _ in fits),
        intercept=tuple(b for _, b in fits),
        null_above=_null_limit(single, limits),
    )
    long = [n for n in CONTIG_LENGTHS if n >= limits.chunk_nt]
    tried = (_scored(score, sets, n, limits.chunk_nt, count // 4) for n in long)
    contigs = [c for c in tried if c is not None]
    if contigs:
        calibration = replace(calibration, gain=_gain(calibration, contigs))
    at = [s for s in single if s.length_nt <= limits.chunk_nt] + contigs
    return replace(
        calibration,
        limit_lengths_nt=tuple(float(s.length_nt) for s in at),
        virus_above=tuple(_virus_limit(calibration, s, limits) for s in at),
    )


def _scored(
    score: Score, sets: dict[str, Corpus], length_nt: int, chunk_nt: int, count: int
) -> _Scored | None:
    drawn = dev_windows(sets, (length_nt,), count, count, CALIBRATION_SEED)
    drawn = [w for w in drawn if len(w.labels)]
    if len({w.labels[0].target for w in drawn} - {NULL}) < 2:
        return None
    chunks = length_nt // chunk_nt
    rows = [w.bases[:, : chunks * chunk_nt].reshape(-1, chunk_nt) for w in drawn]
    scores = [score(r).astype(np.float64) for r in rows]
    labels = [label for w in drawn for label in w.labels]
    return _Scored(
        length_nt, chunks, np.concatenate(scores),
        np.array([label.target for label in labels]),
        np.array([label.group for label in labels]),
        _weights(drawn),
    )  # fmt: skip


def _weights(drawn: list[LabelledWindows]) -> Floats:
    viral = sum(w.labels[0].target == VIRUS for w in drawn)
    cellular = sum(w.labels[0].target not in (VIRUS, NULL) for w in drawn)
    share = {VIRUS: 0.5 / max(viral, 1), NULL: 0.0}
    other = 0.5 / max(cellular, 1)
    of_set = [share.get(w.labels[0].target, other) / len(w.labels) for w in drawn]
    return np.repeat(of_set, [len(w.labels) for w in drawn])


def _platt(z: Floats, scored: _Scored) -> tuple[float, float]:
    """Slope and intercept of the logistic curve that fits best, by Newton's method."""
    y, w = (scored.target == VIRUS).astype(np.float64), scored.weight
    design = np.stack([z, np.ones_like(z)], axis=1)
    theta = np.array([1.0, 0.0])
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(0.5 * design @ theta))
        slope = design.T @ (w * (p - y)) + 1e-6 * (theta - [1, 0])
        bend = design.T @ (design * (w * p * (1 - p))[:, None]) + 1e-6 * np.eye(2)
        move = np.linalg.solve(bend, slope)
        theta = theta - np.clip(move, -1, 1)
    return float(max(theta[0], 0.05)), float(theta[1])


def _gain(calibration: Calibration, contigs: list[_Scored]) -> float:
    """The exponent under which the contigs' labels are likeliest."""
    grid = np.linspace(0, 1, 41)
    losses = []
    for gain in grid:
        loss = 0.0
        for scored in contigs:
            p, _ = _apply(replace(calibration, gain=float(gain)), scored)
            right = np.where(scored.target == VIRUS, p, 1 - p)
            loss -= float((scored.weight * np.log(np.clip(right, 1e-6, 1))).sum())
        losses.append(loss)
    return float(grid[int(np.argmin(losses))])


def _apply(calibration: Calibration, scored: _Scored) -> tuple[Floats, NDArray[np.str_]]:
    n = len(scored.target)
    lengths = np.full(n * scored.chunks, scored.length_nt // scored.chunks)
    return calibration.contigs(scored.scores, lengths, np.repeat(np.arange(n), scored.chunks), n)


def _null_limit(single: list[_Scored], limits: Limits) -> float:
    real = np.concatenate([s.scores[s.target != NULL, 2] for s in single])
    return float(np.clip(np.quantile(real, 1 - limits.real_as_null), 0.1, 0.9))


def _virus_limit(calibration: Calibration, scored: _Scored, limits: Limits) -> float:
    """The least p_virus, not under 1/2, that keeps both error rates, for each kind of null."""
    p, calls = _apply(calibration, scored)
    null = scored.target == NULL
    bounded = [(p[(scored.target != VIRUS) & ~null], limits.cellular)]
    as_called = np.where(calls == "uncertain", 0.0, p)
    for kind in np.unique(scored.kind[null]):
        bounded.append((as_called[null & (scored.kind == kind)], limits.null))
    lowest = 0.5
    for values, rate in bounded:
        if len(values):
            highest = np.sort(values)[len(values) - 1 - int(rate * len(values))]
            lowest = max(lowest, float(highest) + 1e-6)
    return min(lowest, 0.999)
