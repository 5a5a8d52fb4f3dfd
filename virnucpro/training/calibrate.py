"""Fit a model's calibration on dev windows: slopes by length, gain by contigs, limits by error.

Dev sets weigh the same: viral windows together as much as cellular ones, and each viral set as
much as the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.scores.calibration import Calibration, logistic, raw_log_odds
from virnucpro.scores.composition import EDGES, LEAST, TRAINING_SHARE, Mix
from virnucpro.scores.kinds import COLUMNS, KINDS, Kinds
from virnucpro.scores.thresholds import UNCERTAIN
from virnucpro.sequences.chunks import even_windows
from virnucpro.training import corpus as corpora
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Bases, Corpus, Drawing, LabelledWindows
from virnucpro.training.jobs import Job

Floats = NDArray[np.float64]
Score = Callable[[Bases], NDArray[np.floating]]  # windows (n, length) to the scores of each

CHUNK_LENGTHS = (150, 300, 500, 1000)
CONTIG_LENGTHS = (1000, 2000, 5000)
CALIBRATION_SEED = 1
MIX_LENGTHS = (150, 300, 500, 1000, 3000)
MATE_NT, INSERT_NT = 150, 350
# Records of the expected shares that a table's cell holds besides those counted: of a class over
# all lengths, of one length, of viruses, of all cells.
_OF_CLASS, _OF_LENGTH, _OF_VIRUS, _OF_ALL = 0.3, 1.0, 20.0, 0.5
_BINS = len(EDGES) + 1
_ALL_UP_TO_NT = 300
_OF_MIX = 4  # times the windows of other fits, as what looks viral among others is rare
_RIDGE = 1e-5  # of logistic curves, whose weights sum to 1: none is steeper than need be
# Of windows that would be called viruses: kinds that are wrong among those named, families of
# training that are, and windows of other families that get one of them.
KIND_WRONG, FAMILY_WRONG, NEW_AS_FAMILY = 0.06, 0.04, 0.05
# What is called a virus is one in 19 of 20 cases where half of the sequences are. Kin of
# retroviruses in host genomes look alike: they need more.
SURE, RETRO_ABOVE = 0.95, 0.995
# Error rates that the default call must keep on dev: cellular windows and those of each kind of
# null called virus, and real windows that the rule for nulls turns to `uncertain`.
CELLULAR_AS_VIRUS, NULL_AS_VIRUS, REAL_AS_NULL = 0.03, 0.006, 0.01


# Scores of chunks (chunks, columns), their lengths (nt) and records, (chunks,), and the records'
# lengths (n,), as `Calibration.contigs` takes them.
Chunks = tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class _Records(NamedTuple):
    """n records of one length."""

    length_nt: int
    scored: Chunks
    target: NDArray[np.int64]  # (n,)
    group: NDArray[np.str_]  # (n,)
    weight: Floats  # (n,)


def _scored(score: Score, drawn: Sequence[LabelledWindows], chunk_nt: int) -> _Records:
    """Windows of one length, chunk by chunk; each side weighs the same, and each set in it."""
    bases = np.concatenate([w.bases for w in drawn])
    labels = [label for w in drawn for label in w.labels]
    sides = [w.labels[0].target for w in drawn]
    of_set = [0.0 if side == NULL else 0.5 / sides.count(side) for side in sides]
    sizes = np.array([len(w.labels) for w in drawn])
    return _Records(
        bases.shape[1], _in_chunks(score, bases, chunk_nt),
        np.array([label.target for label in labels]), np.array([label.group for label in labels]),
        np.repeat(of_set / sizes, sizes),
    )  # fmt: skip


def _in_chunks(score: Score, bases: Bases, chunk_nt: int) -> Chunks:
    """Windows (n, nt), cut and scored."""
    n, length_nt = bases.shape
    chunk_nt = min(chunk_nt, length_nt)
    starts = [start for start, _ in even_windows(length_nt, chunk_nt)]
    cut = np.stack([bases[:, start : start + chunk_nt] for start in starts], axis=1)
    of, rows = np.repeat(np.arange(n), len(starts)), cut.reshape(-1, chunk_nt)
    scores = score(rows).astype(np.float64) if n else np.empty((0, 3 + COLUMNS))
    return scores, np.full(len(of), chunk_nt), of, np.full(n, length_nt)


def fit_calibration(
    score: Score, sets: dict[str, Corpus], count: int, chunk_nt: int
) -> Calibration:
    """Fit on `count` windows of each dev set and length, drawn with a seed of their own.

    Without viruses or without others that are long enough, the defaults come back. `score` maps
    windows (n, length) to P(other), P(virus), P(null), shape (n, 3).
    """

    def drawn(length_nt: int, chunk_nt: int, count: int) -> Iterator[_Records]:
        windows = corpora.dev_windows(sets, Drawing((length_nt,), count, count, CALIBRATION_SEED))
        if {VIRUS, OTHER} <= {w.labels[0].target for w in windows}:
            yield _scored(score, windows, chunk_nt)

    single = [records for nt in CHUNK_LENGTHS for records in drawn(nt, nt, count)]
    if not single:
        return Calibration()
    slopes, intercepts = zip(*map(_platt, single), strict=True)
    real = np.concatenate([s.scored[0][s.target != NULL, 2] for s in single])
    calibration = Calibration(
        lengths_nt=tuple(float(s.length_nt) for s in single), slope=slopes, intercept=intercepts,
        null_above=float(np.clip(np.quantile(real, 1 - REAL_AS_NULL), 0.1, 0.9)),
    )  # fmt: skip
    contigs = [
        records for nt in CONTIG_LENGTHS if nt >= chunk_nt
        for records in drawn(nt, chunk_nt, count // 4)
    ]  # fmt: skip

    def unlikely(gain: float) -> float:
        """Minus the log-likelihood of the labels."""
        loss = 0.0
        for contig in contigs:
            p, _ = replace(calibration, gain=gain).contigs(*contig.scored)
            right = np.where(contig.target == VIRUS, p, 1 - p)
            loss -= float((contig.weight * np.log(np.clip(right, 1e-6, 1))).sum())
        return loss

    calibration = replace(calibration, gain=min(np.linspace(0, 1, 41).tolist(), key=unlikely))
    at = [s for s in single if s.length_nt <= chunk_nt] + contigs
    limits = []
    for records in at:  # the least p_virus, not under `SURE`, that keeps both error rates
        p, calls = calibration.contigs(*records.scored)
        as_called = np.where(calls == UNCERTAIN, 0.0, p)
        bounded = [(p[records.target == OTHER], CELLULAR_AS_VIRUS)]
        for kind in np.unique(records.group[records.target == NULL]):
            is_kind = (records.target == NULL) & (records.group == kind)
            bounded.append((as_called[is_kind], NULL_AS_VIRUS))
        least = [float(np.quantile(x, 1 - y, method="higher")) + 1e-6 for x, y in bounded]
        limits.append(min(max(SURE, *least), 0.999))
    lengths = tuple(float(records.length_nt) for records in at)
    return replace(calibration, limit_lengths_nt=lengths, virus_above=tuple(limits))


def _platt(single: _Records) -> tuple[float, float]:
    """Slope and intercept of the logistic curve that fits best."""
    z = raw_log_odds(single.scored[0])
    design = np.stack([z, np.ones_like(z)], axis=1)
    slope, intercept = _logistic(design, single.target == VIRUS, single.weight)
    return max(slope, 0.05), intercept


def _logistic(design: Floats, is_viral: NDArray[np.bool_], weight: Floats) -> list[float]:
    """Factors of the columns (n, m) whose sum is likeliest as log-odds, by Newton's method."""
    theta = first = np.eye(design.shape[1])[0]
    for _ in range(50):
        p = logistic(design @ theta)
        slope = design.T @ (weight * (p - is_viral)) + _RIDGE * (theta - first)
        bend = design.T @ (design * (weight * p * (1 - p))[:, None]) + _RIDGE * np.eye(len(first))
        theta = theta - np.clip(np.linalg.solve(bend, slope), -1, 1)
    factors: list[float] = theta.tolist()
    return factors


def fit_kinds(
    calibration: Calibration, score: Score, sets: dict[str, Corpus], job: Job,
    groups: Sequence[str],
) -> Calibration:  # fmt: skip
    """Choose from which certainty on kind and family are named, on viral windows of a chunk.

    The limits are the lowest that keep the error rates among windows that would be called viruses;
    the family of a group that is not in `groups` is left open. `score` gives columns of `Kinds`.
    """
    if not job.virus_kinds:
        return calibration
    drawing = Drawing((job.chunk_nt,), job.dev_count, 0, CALIBRATION_SEED)
    viral = [w for w in corpora.dev_windows(sets, drawing) if w.labels[0].target == VIRUS]
    records, kinds = _scored(score, viral, job.chunk_nt), Kinds(groups)
    kind_of = {family: kind for kind, own in job.virus_kinds.items() for family in own}
    names, n = records.group, len(records.group)
    truth = np.array([kind_of.get(x) or kind_of.get(x.split(" [")[0], "") for x in names.tolist()])
    p, _ = calibration.contigs(*records.scored)
    found = kinds.of_records(records.scored[0][:, 3:], np.ones(n), np.arange(n), n)
    kind, kind_score, family, family_score, _ = found
    called = p >= np.interp(job.chunk_nt, calibration.limit_lengths_nt, calibration.virus_above)
    is_right = np.array(KINDS)[kind] == truth
    kind_above = _least(kind_score, ~is_right, called & (truth != ""), KIND_WRONG)
    known = called & (truth != "") & (kinds.of_group[family] == kind) & (kind_score >= kind_above)
    is_wrong = np.array(kinds.families)[family] != names
    is_new = ~np.isin(names, kinds.families) & np.char.endswith(names, "idae")
    family_above = _least(family_score, is_wrong, known & ~is_new, FAMILY_WRONG)
    if (is_new & known).any():
        among = family_score[is_new & known]
        new_above = float(np.quantile(among, 1 - NEW_AS_FAMILY, method="higher"))
        family_above = max(family_above, new_above)
    return replace(calibration, retro_above=RETRO_ABOVE, kind_above=kind_above,
                   family_above=family_above)  # fmt: skip


def _least(score: Floats, wrong: NDArray[np.bool_], among: NDArray[np.bool_], rate: float) -> float:
    """The least score from which on at most `rate` are wrong; 2 where there is none."""
    order = np.argsort(-score[among], kind="stable")
    share = np.cumsum(wrong[among][order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(share <= rate)
    return float(score[among][order][kept[-1]]) if len(kept) else 2.0


class Scored(NamedTuple):
    """n records, or pairs, of one viral set or cellular class: a part of the mix."""

    p: Floats  # p_virus, (n,)
    call: NDArray[np.str_]  # (n,)
    kind: NDArray[np.int64]  # of virus, and host, that each is most like, (n,) each
    host: NDArray[np.int64]
    alike: Floats | None  # of pairs: how alike the mates are, (n, `LIKENESS`)


def score_records(
    calibration: Calibration, kinds: Kinds, scores: Floats, lengths: NDArray[np.int64],
    record_of: NDArray[np.int64], sizes: NDArray[np.int64], are_pairs: bool = False,
) -> Scored:  # fmt: skip
    """Scores of c chunks to n records, or to pairs of records in a row, as `predict` does.

    Of each chunk its scores, with the columns of `Kinds`, its length and record, (c, ...); of each
    record, or pair, its size (n,).
    """
    weight, alike, of = lengths.astype(np.float64), None, record_of
    if are_pairs:
        alike, of = kinds.alike(scores[:, 3:], weight, record_of, len(sizes)), record_of // 2
    p, calls = calibration.contigs(scores, lengths, of, sizes, alike=alike)
    kind, *_, host = kinds.of_records(scores[:, 3:], weight, of, len(sizes))
    return Scored(np.clip(p, LEAST, 1 - LEAST), calls, kind, host, alike)


def fit_mix(
    calibration: Calibration, score: Score, sets: dict[str, Corpus], groups: Sequence[str],
    chunk_nt: int, count: int,
) -> Calibration:  # fmt: skip
    """Fit what is known of pairs, and `mix`, on windows of each viral set and cellular class.

    `calibration` knows of neither; without cellular groups, or with dev sets of one side only, it
    stays so. Viral sets weigh the same, classes by their bases, both sides the same. `score` gives
    the columns of `Kinds`; `count` is of each part, fewer of long windows.
    """
    ordered = [corpus for _, corpus in sorted(sets.items())]
    viral = [corpus for corpus in ordered if (corpus.targets == VIRUS).all()]
    classes = [
        corpus.of_groups(np.array([group.kind == kind for group in corpus.groups]))
        for corpus in ordered
        if (corpus.targets == OTHER).all()
        for kind in sorted({group.kind for group in corpus.groups})
    ]
    kinds, nt = Kinds(groups), np.array([len(c.bases) for c in classes])
    if not (kinds.hosts and viral and classes):
        return calibration
    of_viral = np.full(len(viral), TRAINING_SHARE / len(viral))
    share = np.concatenate([of_viral, (1 - TRAINING_SHARE) * nt / nt.sum()])
    is_viral = np.arange(len(share)) < len(viral)

    rng = np.random.default_rng([CALIBRATION_SEED, 0])
    drawn = [draw_mates(corpus, _OF_MIX * count, rng).bases for corpus in viral + classes]
    mates = [_in_chunks(score, rows.reshape(-1, MATE_NT), MATE_NT) for rows in drawn]

    def pairs(calibration: Calibration) -> list[Scored]:
        return [
            score_records(calibration, kinds, scores, lengths, of, 2 * sizes[::2], are_pairs=True)
            for scores, lengths, of, sizes in mates
        ]

    calibration = fit_pairs(calibration, share, is_viral, pairs(calibration))
    kept = {}
    for length_nt in MIX_LENGTHS:
        rng = np.random.default_rng([CALIBRATION_SEED, length_nt])
        n = max(1, _OF_MIX * count * _ALL_UP_TO_NT // max(_ALL_UP_TO_NT, length_nt))
        found = [
            score_records(calibration, kinds, *_in_chunks(score, windows.bases, chunk_nt))
            for windows in (corpora.draw_windows(c, "", length_nt, n, rng) for c in viral + classes)
        ]
        sides = is_viral[[len(some.p) > 0 for some in found]]
        # without viruses, or classes, that are long, shorter ones have to do
        if sides.any() and not sides.all():
            kept[length_nt] = found
    if not kept:
        return calibration
    scored = [*kept.values(), pairs(calibration)]
    return replace(calibration, mix=mix_of(share, is_viral, [*kept], scored, len(kinds.hosts)))


def draw_mates(corpus: Corpus, count: int, rng: np.random.Generator) -> LabelledWindows:
    """Both mates of `count` inserts, one behind the other in a window."""
    windows = corpora.draw_windows(corpus, "", INSERT_NT, count, rng)
    mates = corpora.other_strand(windows.bases[:, -MATE_NT:])
    return windows._replace(bases=np.hstack([windows.bases[:, :MATE_NT], mates]))


def fit_pairs(
    calibration: Calibration, share: Floats, is_viral: NDArray[np.bool_], scored: list[Scored]
) -> Calibration:
    """Fit gain and likeness of pairs, scored without any; parts as for `mix_of`."""
    p = np.concatenate([some.p for some in scored])
    alike = np.concatenate([some.alike for some in scored if some.alike is not None])
    sizes = np.array([len(some.p) for some in scored])
    design = np.column_stack([np.log(p) - np.log1p(-p), alike, np.ones(len(p))])
    is_viral, weight = (np.repeat(x, sizes) for x in (is_viral, share / np.maximum(1, sizes)))
    both = ~np.isnan(alike[:, 0])
    growth, *likeness, intercept = _logistic(design[both], is_viral[both], weight[both])
    gain = float(np.clip(np.log2(max(growth, 1.0)), 0, 1))
    return replace(calibration, pair_gain=gain, pair_likeness=tuple(likeness),
                   pair_intercept=intercept)  # fmt: skip


def mix_of(
    share: Floats, is_viral: NDArray[np.bool_], lengths_nt: Sequence[int],
    scored: list[list[Scored]], hosts: int,
) -> Mix:  # fmt: skip
    """What is known of each class, from scored parts of each length, and last of pairs.

    Of each part `share` of the mix, and whether it is viral, (parts,). A class's cell is a product
    of what all classes have at the length, what the class has over all lengths, and what it has at
    this one, each held to 1 by what was imagined.
    """
    counted = np.zeros((len(scored), len(share), _BINS))
    implied = np.zeros((2, len(scored), _BINS))  # by p_virus: of others, of viruses
    looks = np.full((len(scored), len(share), hosts), 0.5)
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
    cellular = np.maximum(cellular * of_class * of_length, 1e-4)
    tables = {
        "lengths_nt": np.array(lengths_nt), "shares": share[~is_viral] / share[~is_viral].sum(),
        "viral": sides[1], "cellular": cellular, "hosts": looks,
    }  # fmt: skip
    return Mix.of({name: table.round(4).tolist() for name, table in tables.items()})
