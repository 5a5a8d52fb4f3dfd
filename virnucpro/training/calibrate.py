"""Fit a model's calibration on dev windows: slopes by length, gain by contigs, limits by error.

Dev sets weigh the same: viral windows together as much as cellular ones, and each viral set as
much as the next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from virnucpro.scores.calibration import UNCERTAIN_CALL, Calibration, logistic, raw_log_odds
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus
from virnucpro.training.windows import Drawing, dev_windows

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

CHUNK_LENGTHS = (150, 300, 500, 1000)
CONTIG_LENGTHS = (1000, 2000, 5000)
CALIBRATION_SEED = 1
# Error rates that the default call must keep on dev: cellular windows and those of each kind of
# null called virus, and real windows that the rule for nulls turns to `uncertain`.
CELLULAR_AS_VIRUS, NULL_AS_VIRUS, REAL_AS_NULL = 0.03, 0.006, 0.01


@dataclass(frozen=True, slots=True)
class _Contigs:
    """Scores of contigs of one length: chunk scores (n * chunks, 3); the rest (n,)."""

    length_nt: int
    chunks: int
    scores: Floats
    target: NDArray[np.int64]
    kind: NDArray[np.str_]
    weight: Floats

    def called(self, calibration: Calibration) -> tuple[Floats, NDArray[np.str_]]:
        """p_virus and call of each."""
        n = len(self.target)
        lengths = np.full(n * self.chunks, self.length_nt // self.chunks)
        return calibration.contigs(self.scores, lengths, np.repeat(np.arange(n), self.chunks), n)


def fit_calibration(
    score: Score, sets: dict[str, Corpus], count: int, chunk_nt: int
) -> Calibration:
    """Fit on windows drawn from the dev sets with a seed of their own.

    Without viruses or without others that are long enough, the defaults come back.

    Args:
        score: maps windows (n, length) to P(other), P(virus), P(null), shape (n, 3).
        sets: dev sets by name.
        count: windows of each set and length.
        chunk_nt: length of the chunks that contigs are cut into.
    """
    tried = (_contigs(score, sets, n, n, count) for n in CHUNK_LENGTHS)
    single = [s for s in tried if s is not None]
    if not single:
        return Calibration()
    fits = [_platt(s) for s in single]
    real = np.concatenate([s.scores[s.target != NULL, 2] for s in single])
    calibration = Calibration(
        lengths_nt=tuple(float(s.length_nt) for s in single),
        slope=tuple(a for a, _ in fits),
        intercept=tuple(b for _, b in fits),
        null_above=float(np.clip(np.quantile(real, 1 - REAL_AS_NULL), 0.1, 0.9)),
    )
    long = [n for n in CONTIG_LENGTHS if n >= chunk_nt]
    tried = (_contigs(score, sets, n, chunk_nt, count // 4) for n in long)
    contigs = [c for c in tried if c is not None]
    if contigs:
        gains = np.linspace(0, 1, 41).tolist()
        losses = [_loss(replace(calibration, gain=gain), contigs) for gain in gains]
        calibration = replace(calibration, gain=gains[int(np.argmin(losses))])
    at = [s for s in single if s.length_nt <= chunk_nt] + contigs
    return replace(
        calibration,
        limit_lengths_nt=tuple(float(s.length_nt) for s in at),
        virus_above=tuple(_virus_limit(calibration, s) for s in at),
    )


def _contigs(
    score: Score, sets: dict[str, Corpus], length_nt: int, chunk_nt: int, count: int
) -> _Contigs | None:
    drawing = Drawing(lengths=(length_nt,), count=count, null_count=count, seed=CALIBRATION_SEED)
    drawn = [w for w in dev_windows(sets, drawing) if len(w.labels)]
    targets = [w.labels[0].target for w in drawn]
    if not {VIRUS, OTHER} <= set(targets):
        return None
    share = {VIRUS: 0.5 / targets.count(VIRUS), OTHER: 0.5 / targets.count(OTHER), NULL: 0.0}
    of_set = [share[target] / len(w.labels) for target, w in zip(targets, drawn, strict=True)]
    chunks = length_nt // chunk_nt
    rows = [w.bases[:, : chunks * chunk_nt].reshape(-1, chunk_nt) for w in drawn]
    labels = [label for w in drawn for label in w.labels]
    return _Contigs(
        length_nt,
        chunks,
        scores=np.concatenate([score(r).astype(np.float64) for r in rows]),
        target=np.array([label.target for label in labels]),
        kind=np.array([label.group for label in labels]),
        weight=np.repeat(of_set, [len(w.labels) for w in drawn]),
    )


def _platt(single: _Contigs) -> tuple[float, float]:
    """Slope and intercept of the logistic curve that fits best, by Newton's method."""
    y, w = (single.target == VIRUS).astype(np.float64), single.weight
    z = raw_log_odds(single.scores)
    design = np.stack([z, np.ones_like(z)], axis=1)
    theta = np.array([1.0, 0.0])
    for _ in range(50):
        p = logistic(design @ theta)
        slope = design.T @ (w * (p - y)) + 1e-6 * (theta - [1, 0])
        bend = design.T @ (design * (w * p * (1 - p))[:, None]) + 1e-6 * np.eye(2)
        theta = theta - np.clip(np.linalg.solve(bend, slope), -1, 1)
    return float(max(theta[0], 0.05)), float(theta[1])


def _loss(calibration: Calibration, contigs: list[_Contigs]) -> float:
    """How unlikely the labels of the contigs are: minus their log-likelihood."""
    loss = 0.0
    for contig in contigs:
        p, _ = contig.called(calibration)
        right = np.where(contig.target == VIRUS, p, 1 - p)
        loss -= float((contig.weight * np.log(np.clip(right, 1e-6, 1))).sum())
    return loss


def _virus_limit(calibration: Calibration, contigs: _Contigs) -> float:
    """The least p_virus, not under 1/2, that keeps both error rates, for each kind of null."""
    p, calls = contigs.called(calibration)
    as_called = np.where(calls == UNCERTAIN_CALL, 0.0, p)
    null = contigs.target == NULL
    bounded = [(p[contigs.target == OTHER], CELLULAR_AS_VIRUS)]
    for kind in np.unique(contigs.kind[null]):
        bounded.append((as_called[null & (contigs.kind == kind)], NULL_AS_VIRUS))
    lowest = 0.5
    for values, rate in bounded:
        if len(values):
            highest = np.sort(values)[len(values) - 1 - int(rate * len(values))]
            lowest = max(lowest, float(highest) + 1e-6)
    return min(lowest, 0.999)
