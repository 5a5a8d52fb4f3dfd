"""How viral a sample is as a whole, and the false discovery rate that follows from it.

A calibrated probability holds for the mix of sequences that it was calibrated on. The mix of
cellular classes is estimated from the records that score low, by the class that each looks most
like; then the share of viruses from all scores, at that mix; `p_virus` is left as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The share of viruses that calibrated probabilities hold for.
TRAINING_SHARE = 0.5
# Log-odds of p_virus between which a class is measured; the last one is that of the call `virus`.
EDGES = np.array([-2.0, 0.0, 1.5, 2.944])
_CENTRES = np.array([-3.5, -1.0, 0.75, 2.2, 4.0])
# A larger sample than this is no more certain: genera of one class differ, and what is known of
# classes holds the error.
MOST_RECORDS = 600
# Records of the training mix that a small sample is imagined to hold besides its own: without
# them one record alone would be taken for proof that all are viral, or none.
IMAGINED_RECORDS = 5.0

_STEP = 0.02  # of the log-odds
_LIMIT = 16.2  # log-odds of 1 - 1e-7
_BINS = round(2 * _LIMIT / _STEP)
_ODDS = (np.arange(_BINS) + 0.5) * _STEP - _LIMIT
LEAST = 1e-7
_SHARES = np.concatenate([[0.0], np.geomspace(5e-4, 0.999, 200)])
_WITHIN = 1.92  # of the log-likelihood: 95%
_ROUNDS = 200
_IMAGINED_HOSTS = 0.2  # records of each class

Floats = NDArray[np.float64]
Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What a model's scores are like in each cellular class; the default knows of no classes.

    A table has a row for each of n lengths, then one for pairs; `EDGES` make 5 bins of scores.
    """

    lengths_nt: Numbers = (500.0,)  # rising
    shares: Numbers = (1.0,)  # of m classes in the mix that p_virus holds for
    # of viruses found in a bin over those that p_virus tells of, (n + 1, 5)
    viral: tuple[Numbers, ...] = ((1.0,) * 5,) * 2
    # the same of each class, (n + 1, m, 5)
    cellular: tuple[tuple[Numbers, ...], ...] = (((1.0,) * 5,),) * 2
    # share of a class's low scores that look most like each of h hosts, (n + 1, m, h)
    hosts: tuple[tuple[Numbers, ...], ...] = (((1.0,),),) * 2

    @classmethod
    def of(cls, value: dict[str, Any]) -> Mix:
        """From lists; a ValueError or TypeError where they are not those of a mix."""
        tables = {name: np.array(table, dtype=np.float64) for name, table in value.items()}
        mix = cls(**{name: tuples(table.tolist()) for name, table in tables.items()})
        n, m, h = len(mix.lengths_nt) + 1, len(mix.shares), np.shape(mix.hosts)[-1]
        shapes = {"lengths_nt": (n - 1,), "shares": (m,), "viral": (n, 5),
                  "cellular": (n, m, 5), "hosts": (n, m, h)}  # fmt: skip
        for name, shape in shapes.items():
            table = np.array(getattr(mix, name))
            if table.shape != shape or not (0 < table.min() <= table.max() < 1e6):
                raise ValueError(f"mix: {name} is not {shape} of positive numbers")
        if (np.diff(mix.lengths_nt) <= 0).any():
            raise ValueError("mix: lengths must rise")
        return mix


class Composition:
    """The scores of one sample, counted in fine bins: bounded memory whatever the sample.

    A bin is 0.02 wide in log-odds, so that the corrected probabilities of its records differ by
    less than half a percent. With `are_pairs` what is counted are pairs of mates.
    """

    def __init__(self, mix: Mix, are_pairs: bool = False) -> None:
        rows = slice(-1, None) if are_pairs else slice(0, -1)
        lengths = mix.lengths_nt[:1] if are_pairs else mix.lengths_nt
        self._edges = np.sqrt(np.multiply(lengths[1:], lengths[:-1]))
        self._shares = np.array(mix.shares)
        self._viral, self._cellular, self._looks = (
            np.array(table[rows]) for table in (mix.viral, mix.cellular, mix.hosts)
        )
        self._counts = np.zeros((len(self._edges) + 1, _BINS), dtype=np.int64)
        self._hosts = np.zeros((len(self._edges) + 1, self._looks.shape[-1]), dtype=np.int64)

    def add(self, p_virus: Floats, lengths_nt: NDArray[Any], hosts: NDArray[np.integer]) -> None:
        """Count records: p_virus, length (nt), and the host each is most like, or -1; all (n,)."""
        at = np.searchsorted(self._edges, lengths_nt)
        np.add.at(self._counts, (at, _bins(p_virus)), 1)
        is_told = (p_virus < TRAINING_SHARE) & (hosts >= 0) & (hosts < self._hosts.shape[1])
        np.add.at(self._hosts, (at[is_told], hosts[is_told]), 1)

    def estimate(self) -> Sample:
        """The share of viruses in the sample, and what its scores mean at that share."""
        p = 1.0 / (1.0 + np.exp(-_ODDS))
        classes = self._shares  # expectation maximisation over likeliest hosts
        for _ in range(_ROUNDS):
            of_class = classes[:, None] * self._looks
            of_class = of_class / of_class.sum(axis=1, keepdims=True)
            classes = np.einsum("lch,lh->c", of_class, self._hosts) + _IMAGINED_HOSTS * self._shares
            classes = classes / classes.sum()
        cellular = np.einsum("c,lcb->lb", classes, self._cellular)
        viral, cellular = (
            np.array([np.interp(_ODDS, _CENTRES, row) for row in table])
            for table in (self._viral, cellular)
        )
        viral, other = viral * p / TRAINING_SHARE, cellular * (1 - p) / (1 - TRAINING_SHARE)
        held = self._counts > 0
        counts, total = self._counts[held], max(1, int(self._counts.sum()))
        odds = np.outer(_SHARES, viral[held]) + np.outer(1 - _SHARES, other[held])
        likely = np.log(odds) @ counts * min(1.0, MOST_RECORDS / total)
        within = _SHARES[likely >= likely.max() - _WITHIN]
        imagined = IMAGINED_RECORDS / 2 / (1 + total / IMAGINED_RECORDS)
        drawn = likely + imagined * np.log(np.maximum(_SHARES * (1 - _SHARES), 1e-3))
        share = float(_SHARES[drawn.argmax()])
        p_sample = share * viral / np.maximum(share * viral + (1 - share) * other, 1e-300)
        false = ((1 - p_sample) * self._counts).sum(axis=0)
        records = np.cumsum(self._counts.sum(axis=0)[::-1])[::-1]
        return Sample(
            prevalence=share, low=min(share, float(within[0])), high=max(share, float(within[-1])),
            _edges=self._edges, _p_sample=p_sample,
            _rates=np.cumsum(false[::-1])[::-1] / np.maximum(records, 1),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The share of viruses in a sample, with its interval of 95%, and the rates that follow."""

    prevalence: float
    low: float
    high: float
    _edges: Floats  # lengths between the rows of `_p_sample` (nt)
    _p_sample: Floats  # (lengths, bins)
    _rates: Floats  # (bins,)

    @property
    def compatible_with_none(self) -> bool:
        """Whether the scores are such as a sample without any virus has."""
        return self.low == 0.0

    def fdr(self, p_virus: Floats) -> Floats:
        """The expected share of false ones among all records that score at least this, (n,)."""
        return np.asarray(self._rates[_bins(p_virus)])

    def p_sample(self, p_virus: Floats, lengths_nt: NDArray[Any]) -> Floats:
        """Probability of being viral in this sample, shape (n,)."""
        at = np.searchsorted(self._edges, lengths_nt)
        return np.asarray(self._p_sample[at, _bins(p_virus)])


def _bins(p_virus: Floats) -> NDArray[Any]:
    p = np.clip(p_virus, LEAST, 1.0 - LEAST)
    place = (np.log(p) - np.log1p(-p) + _LIMIT) / _STEP
    return np.clip(place.astype(np.int64), 0, _BINS - 1)


def tuples(value: Any) -> Any:
    """A value of JSON, its lists as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value
