"""Fit a model's calibration on dev windows: slopes by length, gain by contigs, limits by error.

Dev sets weigh the same: viral windows together as much as cellular ones, and each viral set as
much as the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.scores.calibration import UNCERTAIN_CALL, Calibration, logistic, raw_log_odds
from virnucpro.scores.kinds import KINDS, Kinds
from virnucpro.sequences.chunks import even_windows
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus
from virnucpro.training.jobs import Job
from virnucpro.training.windows import Drawing, dev_windows

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

CHUNK_LENGTHS = (150, 300, 500, 1000)
CONTIG_LENGTHS = (1000, 2000, 5000)
CALIBRATION_SEED = 1
# Of windows that would be called viruses: kinds that are wrong among those named, families of
# training that are, and windows of other families that get one of them.
KIND_WRONG, FAMILY_WRONG, NEW_AS_FAMILY = 0.06, 0.04, 0.05
# What is called a virus is one in 19 of 20 cases where half of the sequences are. Kin of
# retroviruses in host genomes look alike: they need more.
SURE, RETRO_ABOVE = 0.95, 0.995
# Error rates that the default call must keep on dev: cellular windows and those of each kind of
# null called virus, and real windows that the rule for nulls turns to `uncertain`.
CELLULAR_AS_VIRUS, NULL_AS_VIRUS, REAL_AS_NULL = 0.03, 0.006, 0.01


class _Contigs(NamedTuple):
    """Scores of n contigs of one length: chunk scores (n * chunks, 3); the rest (n,)."""

    length_nt: int
    chunk_nt: int
    chunks: int
    scores: Floats
    target: NDArray[np.int64]
    kind: NDArray[np.str_]
    weight: Floats

    def called(self, calibration: Calibration) -> tuple[Floats, NDArray[np.str_]]:
        """p_virus and call of each."""
        n = len(self.target)
        of, sizes = np.repeat(np.arange(n), self.chunks), np.full(n, self.length_nt)
        lengths = np.full(n * self.chunks, self.chunk_nt)
        return calibration.contigs(self.scores, lengths, of, sizes)


def fit_calibration(
    score: Score, sets: dict[str, Corpus], count: int, chunk_nt: int
) -> Calibration:
    """Fit on `count` windows of each dev set and length, drawn with a seed of their own.

    Without viruses or without others that are long enough, the defaults come back. `score` maps
    windows (n, length) to P(other), P(virus), P(null), shape (n, 3).
    """
    single = list(filter(None, (_contigs(score, sets, n, n, count) for n in CHUNK_LENGTHS)))
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
    contigs = list(filter(None, (_contigs(score, sets, n, chunk_nt, count // 4) for n in long)))
    if contigs:
        gains, losses = np.linspace(0, 1, 41).tolist(), []
        for gain in gains:  # how unlikely the labels are: minus their log-likelihood
            loss = 0.0
            for contig in contigs:
                p, _ = contig.called(replace(calibration, gain=gain))
                right = np.where(contig.target == VIRUS, p, 1 - p)
                loss -= float((contig.weight * np.log(np.clip(right, 1e-6, 1))).sum())
            losses.append(loss)
        calibration = replace(calibration, gain=gains[int(np.argmin(losses))])
    at = [s for s in single if s.length_nt <= chunk_nt] + contigs
    return replace(
        calibration,
        limit_lengths_nt=tuple(float(s.length_nt) for s in at),
        virus_above=tuple(_virus_limit(calibration, s) for s in at),
    )


def fit_kinds(
    calibration: Calibration, score: Score, sets: dict[str, Corpus], job: Job,
    groups: Sequence[str],
) -> Calibration:  # fmt: skip
    """Choose from which certainty on kind and family are named, on viral windows of a chunk.

    The limits are the lowest that keep the error rates among windows that would be called viruses;
    the family of a group that is not among `groups` has to be left open.
    """
    drawing = Drawing((job.chunk_nt,), job.dev_count, 0, CALIBRATION_SEED)
    drawn = [w for w in dev_windows(sets, drawing) if len(w.labels) and w.labels[0].target == VIRUS]
    kind_of = {family: kind for kind, own in job.virus_kinds.items() for family in own}
    names = [label.group for w in drawn for label in w.labels]
    truth = [kind_of.get(name) or kind_of.get(name.split(" [")[0], "") for name in names]
    scores = np.concatenate([score(w.bases) for w in drawn]).astype(np.float64)
    n, kinds = len(names), Kinds(groups)
    sizes = np.full(n, job.chunk_nt)
    p = calibration.contigs(scores, sizes, np.arange(n), sizes)[0]
    found = kinds.of_records(scores[:, 3:], np.ones(n), np.arange(n), n)
    kind, kind_score, family, family_score, _ = found
    called = p >= np.interp(job.chunk_nt, calibration.limit_lengths_nt, calibration.virus_above)
    is_right = np.array([KINDS[k] == t for k, t in zip(kind, truth, strict=True)])
    known = called & np.array([bool(t) for t in truth])
    kind_above = _least(kind_score, ~is_right, known, KIND_WRONG)
    named = np.array([kinds.families[f] for f in family])
    known = known & (kinds.of_group[family] == kind) & (kind_score >= kind_above)
    is_wrong = named != np.array(names)
    is_new = ~np.isin(names, kinds.families) & np.array([n.endswith("idae") for n in names])
    family_above = max(
        _least(family_score, is_wrong, known & ~is_new, FAMILY_WRONG),
        float(np.quantile(family_score[is_new & known], 1 - NEW_AS_FAMILY, method="higher"))
        if (is_new & known).any() else 0.0,
    )  # fmt: skip
    return replace(calibration, retro_above=RETRO_ABOVE, kind_above=kind_above,
                   family_above=family_above)  # fmt: skip


def _least(score: Floats, wrong: NDArray[np.bool_], among: NDArray[np.bool_], rate: float) -> float:
    """The least score from which on at most `rate` are wrong; 2 where there is none."""
    order = np.argsort(-score[among], kind="stable")
    share = np.cumsum(wrong[among][order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(share <= rate)
    return float(score[among][order][kept[-1]]) if len(kept) else 2.0


def _contigs(
    score: Score, sets: dict[str, Corpus], length_nt: int, chunk_nt: int, count: int
) -> _Contigs | None:
    drawing = Drawing((length_nt,), count, count, CALIBRATION_SEED)
    drawn = [w for w in dev_windows(sets, drawing) if len(w.labels)]
    targets = [w.labels[0].target for w in drawn]
    if not {VIRUS, OTHER} <= set(targets):
        return None
    share = {VIRUS: 0.5 / targets.count(VIRUS), OTHER: 0.5 / targets.count(OTHER), NULL: 0.0}
    of_set = [share[target] / len(w.labels) for target, w in zip(targets, drawn, strict=True)]
    # every contig length is a multiple, so that all windows are of one length
    windows, scores = even_windows(length_nt, chunk_nt), list[Floats]()
    for w in drawn:
        cut = np.stack([w.bases[:, start : start + chunk_nt] for start, _ in windows], axis=1)
        scores.append(score(cut.reshape(-1, chunk_nt)).astype(np.float64))
    labels = [label for w in drawn for label in w.labels]
    return _Contigs(
        length_nt, chunk_nt, len(windows), np.concatenate(scores),
        target=np.array([label.target for label in labels]),
        kind=np.array([label.group for label in labels]),
        weight=np.repeat(of_set, [len(w.labels) for w in drawn]),
    )  # fmt: skip


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


def _virus_limit(calibration: Calibration, contigs: _Contigs) -> float:
    """The least p_virus, not under `SURE`, that keeps both error rates, for each kind of null."""
    p, calls = contigs.called(calibration)
    as_called = np.where(calls == UNCERTAIN_CALL, 0.0, p)
    null = contigs.target == NULL
    bounded = [(p[contigs.target == OTHER], CELLULAR_AS_VIRUS)]
    for kind in np.unique(contigs.kind[null]):
        bounded.append((as_called[null & (contigs.kind == kind)], NULL_AS_VIRUS))
    lowest = SURE
    for values, rate in bounded:
        if len(values):
            highest = np.sort(values)[len(values) - 1 - int(rate * len(values))]
            lowest = max(lowest, float(highest) + 1e-6)
    return min(lowest, 0.999)
