"""What a model's scores are like in each cellular class, and in pairs of mates."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.scores.calibration import Calibration, logistic
from virnucpro.scores.composition import EDGES, LEAST, TRAINING_SHARE, Mix
from virnucpro.scores.kinds import Kinds
from virnucpro.sequences.chunks import even_windows
from virnucpro.training.calibrate import CALIBRATION_SEED, Floats, Score
from virnucpro.training.corpus import OTHER, VIRUS, Corpus
from virnucpro.training.windows import Bases, draw_windows, reverse_complement

LENGTHS = (150, 300, 500, 1000, 3000)
MATE_NT = 150
INSERT_NT = (350, 60)  # of a pair: mean and standard deviation
# Records of the expected shares that a table's cell holds besides those counted: of a class over
# all lengths, of one length, of viruses, of all cells.
_OF_CLASS, _OF_LENGTH, _OF_VIRUS, _OF_ALL = 0.3, 4.0, 20.0, 1.0
_BINS = len(EDGES) + 1
_GAINS = np.linspace(0, 1, 101)
_ALL_UP_TO_NT = 300


class Part(NamedTuple):
    """Records of one viral set or cellular class, and their share of the mix."""

    is_viral: bool
    share: float


class Scored(NamedTuple):
    """n records of one part: p_virus and the host each is most like, (n,) each."""

    p: Floats
    host: NDArray[np.int64]


def fit_mix(
    calibration: Calibration, score: Score, sets: dict[str, Corpus], groups: Sequence[str],
    chunk_nt: int, count: int,
) -> Calibration:  # fmt: skip
    """Fit `pair_gain` and `mix` on windows of each viral set and cellular class.

    A model without cellular groups, or dev sets of one side only, leave them as they are. Viral
    sets weigh the same, classes by their bases, both sides the same. `score` maps windows (n,
    length) to scores with the columns of `Kinds`; `count` is of each part, fewer of long windows.
    """
    ordered = [corpus for _, corpus in sorted(sets.items())]
    viral = [corpus for corpus in ordered if (corpus.targets == VIRUS).all()]
    classes = [
        corpus.of_groups(np.array([group.kind == kind for group in corpus.groups]))
        for corpus in ordered
        if (corpus.targets == OTHER).all()
        for kind in sorted({group.kind for group in corpus.groups})
    ]
    kinds, nt = Kinds(groups), sum(len(c.bases) for c in classes)
    if not (kinds.hosts and viral and classes):
        return calibration
    parts = [Part(True, TRAINING_SHARE / len(viral)) for _ in viral]
    parts += [Part(False, (1 - TRAINING_SHARE) * len(c.bases) / nt) for c in classes]
    calibration = replace(calibration, pair_gain=0.0)

    def scored(length_nt: int, are_pairs: bool = False) -> list[Scored]:
        rng = np.random.default_rng([CALIBRATION_SEED, length_nt, are_pairs])
        n = max(1, count * _ALL_UP_TO_NT // max(_ALL_UP_TO_NT, length_nt))
        places, known_nt = even_windows(length_nt, chunk_nt), length_nt
        chunk, found = max(end - start for start, end in places), []
        for corpus in viral + classes:
            windows = draw_windows(corpus, "", length_nt, n, rng).bases
            cut = [windows[:, start : start + chunk] for start, _ in places]
            if are_pairs:
                size = np.clip(rng.normal(*INSERT_NT, len(windows)), MATE_NT, length_nt).astype(int)
                first = size[:, None] - MATE_NT + np.arange(MATE_NT)
                mates = reverse_complement(np.take_along_axis(windows, first, axis=1))
                cut, known_nt = [windows[:, :MATE_NT], mates], 2 * MATE_NT
            chunks = np.stack(cut, axis=1)
            found.append(_scored(calibration, score, kinds, chunks, known_nt, are_pairs))
        return found

    pairs = scored(INSERT_NT[0] + 2 * INSERT_NT[1], are_pairs=True)
    calibration = replace(calibration, pair_gain=pair_gain(parts, pairs))
    pairs = [Scored(_at_gain(some.p, calibration.pair_gain), some.host) for some in pairs]
    kept = {}
    for length_nt in LENGTHS:
        found = scored(length_nt)
        sides = {part.is_viral for part, some in zip(parts, found, strict=True) if len(some.p)}
        if len(sides) == 2:  # without viruses, or classes, that are long, shorter ones have to do
            kept[length_nt] = found
    if not kept:
        return calibration
    tables = class_tables(parts, [*kept.values(), pairs], len(kinds.hosts))
    shares = [part.share for part in parts if not part.is_viral]
    total = sum(shares)
    tables |= {"lengths_nt": np.array([*kept]), "shares": np.array([s / total for s in shares])}
    mix = Mix.of({name: table.round(4).tolist() for name, table in tables.items()})
    return replace(calibration, mix=mix)


def _scored(
    calibration: Calibration, score: Score, kinds: Kinds, chunks: Bases, known_nt: int,
    are_pairs: bool,
) -> Scored:  # fmt: skip
    """Scores of n records as chunks, or mates, of equal length: (n, chunks, nt)."""
    n, each, chunk_nt = chunks.shape
    if not n:
        return Scored(np.empty(0), np.empty(0, np.int64))
    scores = score(chunks.reshape(-1, chunk_nt)).astype(np.float64)
    of, lengths = np.repeat(np.arange(n), each), np.full(n * each, chunk_nt)
    p, _ = calibration.contigs(scores, lengths, of, np.full(n, known_nt), are_pairs=are_pairs)
    host = kinds.of_records(scores[:, 3:], lengths.astype(np.float64), of, n)[-1]
    return Scored(np.clip(p, LEAST, 1 - LEAST), host)


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
    share = np.array([part.share for part in parts])
    is_viral = np.array([part.is_viral for part in parts])
    counted = np.zeros((len(scored), len(parts), _BINS))
    implied = np.zeros((2, len(scored), _BINS))  # by p_virus: of others, of viruses
    looks = np.full((len(scored), len(parts), hosts), 0.5)
    for row, of_parts in enumerate(scored):
        for at, some in enumerate(of_parts):
            if not len(some.p):
                continue
            bins = np.searchsorted(EDGES, np.log(some.p) - np.log1p(-some.p))
            counted[row, at] = np.bincount(bins, minlength=_BINS)
            for side, p in enumerate((1 - some.p, some.p)):
                mean = np.bincount(bins, p, _BINS) / len(bins)
                implied[side, row] += share[at] * mean / TRAINING_SHARE
            low = (some.p < TRAINING_SHARE) & (some.host >= 0)
            looks[row, at] += np.bincount(some.host[low], minlength=hosts)
    sizes = counted.sum(axis=2, keepdims=True)
    shares = counted / np.maximum(sizes, 1) * share[:, None] / TRAINING_SHARE
    sides = []  # of others, of viruses: what was found over what p_virus implies, (rows, bins)
    for inside, told, imagined in zip((~is_viral, is_viral), implied, (_OF_ALL, _OF_VIRUS),
                                      strict=True):  # fmt: skip
        n, found = sizes[:, inside].sum(axis=1), shares[:, inside].sum(axis=1)
        sides.append((n * found + imagined) / (n * told + imagined))
    counted, sizes, looks = counted[:, ~is_viral], sizes[:, ~is_viral], looks[:, ~is_viral]
    cellular = sides[0][:, None]
    expected = sizes * implied[0][:, None] * cellular
    of_class = (counted.sum(axis=0) + _OF_CLASS) / (expected.sum(axis=0) + _OF_CLASS)
    of_length = (counted + _OF_LENGTH) / (expected * of_class + _OF_LENGTH)
    looks = looks / looks.sum(axis=2, keepdims=True)
    return {"viral": sides[1], "cellular": cellular * of_class * of_length, "hosts": looks}
