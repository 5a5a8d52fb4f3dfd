"""Windows to measure a model on, and sequence that no genome explains: bases 0..3, (n, L)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from virnucpro.training.corpus import NULL, OTHER, VIRUS, Bases, Corpus, Label, split_by_target
from virnucpro.training.jobs import Recipe

_NULL_SOURCE_WINDOWS = 4_000
_WORN_COPIES = 3
_REPEAT_UNITS = np.array([6, 4, 4, 3, 2, 2, 1, 1, 1, 1, 1, 1]) / 27  # shares of 1 to 12 bases
_ADAPTERS = (
    "AGATCGGAAGAGCACACGTCTGAACTCCAGTCA", "AGATCGGAAGAGCGTCGTGTAGGGAAAGAGTGT",
    "CTGTCTCTTATACACATCT", "TGGAATTCTCGGGTGCCAAGG", "CAAGCAGAAGACGGCATACGAGAT",
    "AATGATACGGCGACCACCGAGATCTACAC", "AATGTACTTCGTTCAGTTACGTATTGCT",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drawing:
    """How windows are drawn."""

    lengths: tuple[int, ...]  # of the windows (nt)
    count: int  # windows of each set and length
    null_count: int  # random, shuffled and low-complexity windows of each length, as many of each
    seed: int  # everything follows from it


class LabelledWindows(NamedTuple):
    """Windows of one length from one set, all of one target where the set is."""

    name: str  # set, such as `dev_known`
    labels: tuple[Label, ...]  # n labels
    records: tuple[str, ...]  # that the n windows come from; empty for null sequences
    bases: Bases  # (n, length in nt)


def draw_windows(
    corpus: Corpus, name: str, length_nt: int, count: int, rng: np.random.Generator
) -> LabelledWindows:
    """Windows on random strands of records that are long enough; none where none is.

    Viral windows: families weighted by the square root of their bases; others: by bases.
    """
    size = corpus.ends - corpus.starts
    room, group = size - length_nt + 1, corpus.group_of
    if room.max() < 1:
        return LabelledWindows(name, (), (), np.zeros((0, length_nt), np.uint8))
    size = np.where(room > 0, size, 0)
    total = np.bincount(group, size)
    viral = corpus.targets == VIRUS
    share = np.where(viral, np.sqrt(total), total)
    for side in (viral, ~viral):
        share[side] /= max(share[side].sum(), 1e-9)
    weight = share[group] * size / np.maximum(total, 1)[group]
    record = rng.choice(len(size), count, p=weight / weight.sum())
    start = corpus.starts[record] + (rng.random(count) * room[record]).astype(np.int64)
    bases = corpus.bases[start[:, None] + np.arange(length_nt)]
    flip = rng.random(count) < 0.5
    bases[flip] = other_strand(bases[flip])
    labels, ids = (corpus.groups[g] for g in group[record]), (corpus.ids[r] for r in record)
    return LabelledWindows(name, tuple(labels), tuple(ids), bases)


def other_strand(windows: Bases) -> Bases:
    """The other strand of each window."""
    turned = windows[..., ::-1]
    return np.where(turned < 4, 3 - turned, turned).astype(np.uint8)


def dev_windows(sets: dict[str, Corpus], drawing: Drawing) -> list[LabelledWindows]:
    """All sets at all lengths, then nulls of each length; a set with short records gives none.

    Of a set that holds viruses and others, windows of both are drawn. Nulls are random, real
    windows shuffled, and of low complexity.
    """
    drawn: list[LabelledWindows] = []
    for at, length_nt in enumerate(drawing.lengths):
        first = len(drawn)
        for which, (name, corpus) in enumerate(sorted(split_by_target(sets).items())):
            rng = np.random.default_rng([drawing.seed, at, which])
            drawn.append(draw_windows(corpus, name, length_nt, drawing.count, rng))
        real = np.concatenate([w.bases for w in drawn[first:]])
        if (n := drawing.null_count) and len(real):
            rng = np.random.default_rng([drawing.seed, at, 99])
            picked = without_n(rng, real[rng.integers(0, len(real), n)])
            nulls = {
                "random": uniform(rng, n, length_nt),
                "shuffled": np.stack([dinucleotide_shuffle(rng, row) for row in picked]),
                "low-complexity": low_complexity(rng, n, length_nt),
            }
            for kind, bases in nulls.items():
                label = Label(NULL, "null", kind)
                drawn.append(LabelledWindows("null", (label,) * n, ("",) * n, bases))
    return [windows for windows in drawn if windows.labels]


def uniform(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Each base with probability 1/4: shape (n, length)."""
    return rng.integers(0, 4, (n, length), dtype=np.uint8)


def low_complexity(rng: np.random.Generator, n: int, length: int) -> Bases:
    """Tandem repeats of units of 1 to 12 bases, homopolymers among them, with some noise."""
    unit = uniform(rng, n, 12)
    size = rng.choice(np.arange(1, 13), n, p=_REPEAT_UNITS)[:, None]
    out = np.take_along_axis(unit, np.arange(length)[None] % size, axis=1)
    noise = rng.random((n, 1)) * 0.15 * (rng.random((n, 1)) < 0.8)
    random = uniform(rng, n, length)
    return np.where(rng.random((n, length)) < noise, random, out).astype(np.uint8)


def adapters(rng: np.random.Generator, n: int, length: int) -> Bases:
    """What is read behind an insert: shape (n, length).

    Common adapters, or made-up ones of 20 to 40 bases, each with an index of 8 random bases; in
    half of the sequences one and the same again and again; then G, as some machines read no signal.
    """
    known = [np.array(["ACGT".index(base) for base in adapter]) for adapter in _ADAPTERS]
    out = np.full((n, length), 2, dtype=np.uint8)
    for row in out:
        parts = []
        for which in rng.integers(2 * len(known), size=rng.integers(1, 13)):
            made_up = rng.integers(0, 4, rng.integers(20, 41))
            parts.append(known[which] if which < len(known) else made_up)
            parts.append(rng.integers(0, 4, 8))
        parts = parts[:2] * len(parts) if rng.random() < 0.5 else parts
        joined = np.concatenate(parts)[:length]
        row[: len(joined)] = joined
    return out


def without_n(rng: np.random.Generator, windows: Bases) -> Bases:
    """The windows with a random base in place of every ambiguous one."""
    return np.where(windows > 3, rng.integers(0, 4, windows.shape), windows).astype(np.uint8)


def dinucleotide_shuffle(rng: np.random.Generator, bases: Bases) -> Bases:
    """The same dinucleotides in random order (Altschul and Erickson 1985): shape (length,)."""
    edges = [list(bases[1:][bases[:-1] == base]) for base in range(4)]
    last = int(bases[-1])
    while True:
        exits = {b: int(rng.integers(len(e))) for b, e in enumerate(edges) if e and b != last}
        reached = {last}  # by the steps from every other base, or the path ends too early
        for _ in exits:
            reached |= {b for b, i in exits.items() if int(edges[b][i]) in reached}
        if reached >= exits.keys():
            break
    for base, out in enumerate(edges):
        final = [out.pop(exits[base])] if base in exits else []
        edges[base] = [*rng.permutation(np.array(out, dtype=np.uint8)), *final]
    next_edge = [iter(out) for out in edges]
    path = [bases[0]]
    while len(path) < len(bases):
        path.append(next(next_edge[path[-1]]))
    return np.array(path, dtype=np.uint8)


def null_bank(
    rng: np.random.Generator, windows: Bases, share: float, with_adapters: bool
) -> dict[str, Bases]:
    """Null sequences by kind, some shuffled from `windows`; share 1 gives about 60 Mbp."""
    length = windows.shape[1]

    def some(n: int) -> int:
        return max(8, int(n * share))

    def like(n: int) -> Bases:
        return without_n(rng, windows[rng.integers(0, len(windows), some(n))])

    skewed = rng.dirichlet([2.0] * 4, some(6_000)).cumsum(axis=1)[:, None, :3]
    bank = {
        "uniform": uniform(rng, some(16_000), length),
        "skewed": (rng.random((len(skewed), length, 1)) > skewed).sum(axis=2).astype(np.uint8),
        "bases": rng.permuted(like(8_000), axis=1),
        "dinucleotides": np.stack([dinucleotide_shuffle(rng, row) for row in like(20_000)]),
        "low": low_complexity(rng, some(10_000), length),
    }
    return bank | {"adapters": adapters(rng, some(6_000), length)} if with_adapters else bank


def with_made_up(corpus: Corpus, recipe: Recipe) -> Corpus:
    """The corpus, worn copies of families that insert themselves into genomes, and nulls.

    Worn copies have 8% to 25% of their bases substituted, and indels that break their frames.
    """
    made_up, rng = [*corpus.records()], np.random.default_rng([recipe.seed, 7])
    for label, name, bases in corpus.records():
        is_worn = label.target == VIRUS and label.group in recipe.decayed
        for k in range(_WORN_COPIES if is_worn else 0):
            rate, (hit, draw) = rng.uniform(0.08, 0.25), rng.random((2, len(bases)))
            other = (bases + rng.integers(1, 4, len(bases))) % 4
            worn = np.where((hit < rate) & (bases < 4), other, bases).astype(np.uint8)
            worn = worn.repeat(1 + (draw < rate / 15) - (draw > 1 - rate / 15))
            made_up.append((Label(OTHER, "insertion", label.group), f"{name} worn {k}", worn))
    length = max(b.longest for b in recipe.buckets)
    windows = draw_windows(corpus, "", length, _NULL_SOURCE_WINDOWS, rng).bases
    if recipe.null_share > 0 and len(windows):
        has_adapters = recipe.noise.adapter_share > 0
        bank = null_bank(rng, windows, recipe.null_bank_share, has_adapters)
        for kind, block in bank.items():
            null = Label(NULL, "null", kind)
            made_up += [(null, f"{kind}{i}", row) for i, row in enumerate(block)]
    return Corpus.of(made_up)
