"""Draw labelled windows of fixed lengths to measure a model on, the same ones every time."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.files import digest_of
from virnucpro.training import nulls
from virnucpro.training.corpus import NULL, VIRUS, Corpus, Label
from virnucpro.training.metrics import auroc

Bases = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class LabelledWindows:
    """Windows of one length from one set.

    Attributes:
        name: set, such as `dev_known`.
        length_nt: length of every window.
        bases: shape (n, length_nt), 0..3, 4 for N.
        labels: n labels.
        records: ids of the n records that the windows come from; empty for null sequences.
    """

    name: str
    length_nt: int
    bases: Bases
    labels: tuple[Label, ...]
    records: tuple[str, ...] = ()

    def digest(self) -> str:
        """Hex SHA-256 over name, letters and labels."""
        letters = hashlib.sha256(np.ascontiguousarray(self.bases).data).hexdigest()
        return digest_of(self.name, self.length_nt, letters, [astuple(x) for x in self.labels])


def draw_windows(
    corpus: Corpus, name: str, length_nt: int, count: int, rng: np.random.Generator
) -> LabelledWindows:
    """Draw windows on random strands from records that are long enough.

    Viral windows: families weighted by the square root of their bases; others: by bases.
    """
    room = corpus.ends - corpus.starts - length_nt + 1
    usable = np.flatnonzero(room > 0)
    if not len(usable):
        return LabelledWindows(name, length_nt, np.zeros((0, length_nt), np.uint8), ())
    weight = _record_weights(corpus, usable)
    record = usable[rng.choice(len(usable), count, p=weight / weight.sum())]
    start = corpus.starts[record] + (rng.random(count) * room[record]).astype(np.int64)
    bases = corpus.bases[start[:, None] + np.arange(length_nt)]
    flip = rng.random(count) < 0.5
    turned = bases[flip, ::-1]
    bases[flip] = np.where(turned < 4, 3 - turned, turned)
    labels = tuple(corpus.groups[g] for g in corpus.group_of[record])
    ids = tuple(corpus.ids[r] for r in record)
    return LabelledWindows(name, length_nt, bases, labels, ids)


def _record_weights(corpus: Corpus, usable: NDArray[np.int64]) -> NDArray[np.float64]:
    size = (corpus.ends - corpus.starts)[usable].astype(np.float64)
    group = corpus.group_of[usable]
    total = np.bincount(group, size, minlength=len(corpus.groups))
    viral = np.array([g.target == VIRUS for g in corpus.groups])
    share = np.where(viral, np.sqrt(total), total)
    share[viral] /= max(share[viral].sum(), 1e-9)
    share[~viral] /= max(share[~viral].sum(), 1e-9)
    weight: NDArray[np.float64] = share[group] * size / total[group]
    return weight


def draw_nulls(real: Bases, count: int, rng: np.random.Generator) -> list[LabelledWindows]:
    """Uniform random, dinucleotide-shuffled and low-complexity windows, `count` of each.

    Args:
        real: windows to shuffle, shape (n, length_nt).
        count: windows of each kind.
        rng: source of randomness.
    """
    length_nt = real.shape[1]
    picked = real[rng.integers(0, len(real), count)]
    picked = np.where(picked > 3, rng.integers(0, 4, picked.shape), picked).astype(np.uint8)
    kinds = {
        "random": nulls.uniform(rng, count, length_nt),
        "shuffled": np.stack([nulls.dinucleotide_shuffle(rng, row) for row in picked]),
        "low-complexity": nulls.low_complexity(rng, count, length_nt),
    }
    return [
        LabelledWindows("null", length_nt, bases, (Label(NULL, "null", kind),) * count)
        for kind, bases in kinds.items()
    ]


def dev_windows(
    sets: dict[str, Corpus], lengths: tuple[int, ...], count: int, null_count: int, seed: int
) -> list[LabelledWindows]:
    """All sets at all lengths, then nulls of each length; follows from `seed` alone."""
    drawn: list[LabelledWindows] = []
    for at, length_nt in enumerate(lengths):
        here: list[LabelledWindows] = []
        for which, (name, corpus) in enumerate(sorted(sets.items())):
            rng = np.random.default_rng([seed, at, which])
            here.append(draw_windows(corpus, name, length_nt, count, rng))
        real = np.concatenate([w.bases for w in here])
        if null_count and len(real):
            here += draw_nulls(real, null_count, np.random.default_rng([seed, at, 99]))
        drawn += here
    return drawn


def dev_figures(sets: list[LabelledWindows], logits: list[np.ndarray]) -> dict[str, float]:
    """AUROC of each viral set against the cellular ones by length, and nulls called viral."""
    figures: dict[str, float] = {}
    for length in sorted({w.length_nt for w in sets}):
        here = [(w, x) for w, x in zip(sets, logits, strict=True) if w.length_nt == length]
        cells = [x for w, x in here if w.labels[0].target not in (VIRUS, NULL)]
        for windows, x in here:
            if windows.labels[0].target == VIRUS and cells:
                both = np.concatenate([x, *cells])
                viral = np.arange(len(both)) < len(x)
                figures[f"auroc_{windows.name}_{length}"] = auroc(both[:, 1] - both[:, 0], viral)
        null = [x for w, x in here if w.labels[0].target == NULL]
        if null:
            viral = np.concatenate(null).argmax(axis=1) == VIRUS
            figures[f"null_{length}"] = float(viral.mean())
    return figures
