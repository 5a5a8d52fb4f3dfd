"""Measure what a model's scores are like in each cellular class, and in pairs of mates.

A sample's share of viruses is estimated from these tables, `virnucpro.scores.composition`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from virnucpro.scores.calibration import Calibration, logistic
from virnucpro.scores.composition import EDGES, LEAST, TRAINING_SHARE, Mix
from virnucpro.scores.kinds import Kinds
from virnucpro.sequences.chunks import even_windows
from virnucpro.training.calibrate import CALIBRATION_SEED, Floats, Score
from virnucpro.training.corpus import OTHER, VIRUS, Corpus
from virnucpro.training.windows import Bases, draw_windows

LENGTHS = (150, 300, 500, 1000, 3000)
MATE_NT = 150
INSERT_NT = (350, 60)  # of a pair: mean and standard deviation
# Records of the expected shares that a table's cell holds besides those counted: of a class over
# all lengths, of one length, of viruses, of all cells.
_OF_CLASS, _OF_LENGTH, _OF_VIRUS, _OF_ALL = 0.3, 4.0, 20.0, 1.0
_BINS = len(EDGES) + 1
_GAINS = np.linspace(0, 1, 101)
_ALL_UP_TO_NT = 300


@dataclass(frozen=True, slots=True)
class Part:
    """Records of one viral set or cellular class, and their share of the mix."""

    is_viral: bool
    share: float


@dataclass(frozen=True, slots=True)
class Scored:
    """n records of one part: p_virus and the host each is most like, (n,) each."""

    p: Floats
    host: NDArray[np.int64]


def fit_mix(
    calibration: Calibration, score: Score, sets: dict[str, Corpus], groups: Sequence[str],
    chunk_nt: int, count: int,
) -> Calibration:  # fmt: skip
    """Fit `pair_gain` and `mix` on windows of each viral set and cellular class.

    A model without cellular groups, or dev sets of one side only, leave them as they are.

    Args:
        calibration: of everything else.
        score: maps windows (n, length) to scores with the columns of `Kinds`.
        sets: dev sets by name, each of one target.
        groups: of the model.
        chunk_nt: length of the chunks that records are cut into.
        count: windows of each part, fewer of long ones.
    """
    kinds, (parts, corpora) = Kinds(groups), _parts(sets)
    if not kinds.hosts or {part.is_viral for part in parts} != {True, False}:
        return calibration

    def scored(length_nt: int, are_pairs: bool = False) -> list[Scored]:
        rng = np.random.default_rng([CALIBRATION_SEED, length_nt, are_pairs])
        n = max(1, count * _ALL_UP_TO_NT // max(_ALL_UP_TO_NT, length_nt))
        return [
            _score(calibration, score, kinds, _cut(rng, corpus, length_nt, n, chunk_nt, are_pairs))
            for corpus in corpora
        ]

    pairs_nt = INSERT_NT[0] + 2 * INSERT_NT[1]
    calibration = replace(calibration, pair_gain=0.0)
    pairs = scored(pairs_nt, True)
    calibration = replace(calibration, pair_gain=pair_gain(parts, pairs))
    pairs = [Scored(_at_gain(some.p, calibration.pair_gain), some.host) for some in pairs]
    found = [(n, scored(n)) for n in LENGTHS]
    # without viruses, or classes, that are long enough, shorter ones have to do
    kept = [(n, s) for n, s in found if all(_of_side(parts, s, side) for side in (True, False))]
    if not kept:
        return calibration
    tables = class_tables(parts, [*(s for _, s in kept), pairs], len(kinds.hosts))
    total = sum(part.share for part in parts if not part.is_viral)
    shares = [part.share / total for part in parts if not part.is_viral]
    tables |= {"lengths_nt": np.array([n for n, _ in kept]), "shares": np.array(shares)}
    mix = Mix.of({name: table.round(4).tolist() for name, table in tables.items()})
    return replace(calibration, mix=mix)


def _parts(sets: dict[str, Corpus]) -> tuple[list[Part], list[Corpus]]:
    """Viral sets weigh the same, classes by their bases, both sides the same."""
    viral = [c for _, c in sorted(sets.items()) if (c.targets == VIRUS).all()]
    others = [c for _, c in sorted(sets.items()) if (c.targets == OTHER).all()]
    classes = [
        corpus.of_groups(np.array([group.kind == kind for group in corpus.groups]))
        for corpus in others
        for kind in sorted({group.kind for group in corpus.groups})
    ]
    total = sum(len(c.bases) for c in classes)
    parts = [Part(True, TRAINING_SHARE / len(viral)) for _ in viral]
    parts += [Part(False, (1 - TRAINING_SHARE) * len(c.bases) / total) for c in classes]
    return parts, viral + classes


def _cut(
    rng: np.random.Generator, corpus: Corpus, length_nt: int, count: int, chunk_nt: int,
    are_pairs: bool,
) -> tuple[Bases, int, bool]:  # fmt: skip
    """Chunks of windows, or mates: bases (n * k, nt), letters of a record, whether pairs."""
    windows = draw_windows(corpus, "", length_nt, count, rng).bases
    if are_pairs:
        inserts = np.clip(rng.normal(*INSERT_NT, len(windows)), MATE_NT, length_nt).astype(int)
        last = inserts[:, None] - 1 - np.arange(MATE_NT)
        mates = np.take_along_axis(windows, last, axis=1)
        mates = np.where(mates < 4, 3 - mates, mates).astype(np.uint8)
        cut, length_nt = np.stack([windows[:, :MATE_NT], mates], axis=1), 2 * MATE_NT
    else:
        places = even_windows(length_nt, chunk_nt)
        size = max(end - start for start, end in places)
        cut = np.stack([windows[:, start : start + size] for start, _ in places], axis=1)
    return cut.reshape(-1, cut.shape[2]), length_nt, are_pairs


def _score(
    calibration: Calibration, score: Score, kinds: Kinds, cut: tuple[Bases, int, bool]
) -> Scored:
    chunks, length_nt, are_pairs = cut
    if not len(chunks):
        return Scored(np.empty(0), np.empty(0, np.int64))
    scores = score(chunks).astype(np.float64)
    each = 2 if are_pairs else len(even_windows(length_nt, chunks.shape[1]))
    n = len(chunks) // each
    of, lengths = np.repeat(np.arange(n), each), np.full(len(chunks), chunks.shape[1])
    p, _ = calibration.contigs(scores, lengths, of, np.full(n, length_nt), are_pairs=are_pairs)
    host = kinds.of_records(scores[:, 3:], lengths.astype(np.float64), of, n)[-1]
    return Scored(np.clip(p, LEAST, 1 - LEAST), host)


def _of_side(parts: list[Part], scored: list[Scored], is_viral: bool) -> int:
    return sum(len(s.p) for p, s in zip(parts, scored, strict=True) if p.is_viral == is_viral)


def pair_gain(parts: list[Part], scored: list[Scored]) -> float:
    """The gain at which pairs, scored without any, are likeliest."""
    losses = np.zeros(len(_GAINS))
    for part, some in zip(parts, scored, strict=True):
        if len(some.p):
            p = np.array([_at_gain(some.p, gain) for gain in _GAINS])
            losses -= part.share * np.log(p if part.is_viral else 1 - p).mean(axis=1)
    return float(round(_GAINS[losses.argmin()], 2))


def _at_gain(p: Floats, gain: float) -> Floats:
    """p_virus of pairs at a gain, from that at 0: the mean log-odds of two mates."""
    return np.clip(logistic(2**gain * (np.log(p) - np.log1p(-p))), LEAST, 1 - LEAST)


def class_tables(parts: list[Part], scored: list[list[Scored]], hosts: int) -> dict[str, Floats]:
    """The tables of `Mix`, one row for each list of scored parts.

    A class's cell is the product of what all classes have at the length, what the class has over
    all lengths, and what it has at this one, each held to 1 by what was imagined.
    """
    classes = [at for at, part in enumerate(parts) if not part.is_viral]
    share = np.array([part.share for part in parts])
    counted = np.zeros((len(scored), len(parts), _BINS))
    implied = np.zeros((len(scored), 2, _BINS))  # by p_virus: of others, of viruses
    looks = np.full((len(scored), len(parts), hosts), 0.5)
    for row, of_parts in enumerate(scored):
        for at, some in enumerate(of_parts):
            if not len(some.p):
                continue
            bins = np.searchsorted(EDGES, np.log(some.p) - np.log1p(-some.p))
            counted[row, at] = np.bincount(bins, minlength=_BINS)
            for side, p in enumerate((1 - some.p, some.p)):
                mean = np.bincount(bins, p, _BINS) / len(bins)
                implied[row, side] += share[at] * mean / TRAINING_SHARE
            low = (some.p < TRAINING_SHARE) & (some.host >= 0)
            looks[row, at] += np.bincount(some.host[low], minlength=hosts)
    sizes = counted.sum(axis=2, keepdims=True)
    shares = counted / np.maximum(sizes, 1) * share[:, None] / TRAINING_SHARE
    viral = np.ones((len(scored), _BINS))
    cellular = np.ones((len(scored), len(classes), _BINS))
    of_viruses = [at for at, part in enumerate(parts) if part.is_viral]
    for row in range(len(scored)):
        n = sizes[row, of_viruses].sum()
        found = shares[row, of_viruses].sum(axis=0)
        viral[row] = (n * found + _OF_VIRUS) / (n * implied[row, 1] + _OF_VIRUS)
        n = sizes[row, classes].sum()
        found = shares[row, classes].sum(axis=0)
        cellular[row] = (n * found + _OF_ALL) / (n * implied[row, 0] + _OF_ALL)
    expected = sizes[:, classes] * implied[:, :1] * cellular
    of_class = (counted[:, classes].sum(axis=0) + _OF_CLASS) / (expected.sum(axis=0) + _OF_CLASS)
    expected = expected * of_class
    of_length = (counted[:, classes] + _OF_LENGTH) / (expected + _OF_LENGTH)
    looks = looks[:, classes] / looks[:, classes].sum(axis=2, keepdims=True)
    return {"viral": viral, "cellular": cellular * of_class * of_length, "hosts": looks}
