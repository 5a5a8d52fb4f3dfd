"""From the scores of chunks to a calibrated probability and a call for each contig.

A chunk's log-odds z = ln P(virus) - ln(P(other) + P(null) / 10) become slope(L) z + intercept(L),
both interpolated over the logarithm of its length L in known letters: N is no evidence. Those of a
contig are the mean of its chunks', weighted by length, times n ** gain, where n is the number of
full chunks its letters make; gain 0 would be the mean and 1 the sum. A pair's gain where both mates
look like one kind of virus, less for phages, which share genes with their hosts, and lose where
both look like one host.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import ModelError
from virnucpro.core.files import write_json
from virnucpro.core.text import clipped
from virnucpro.models.store import read_json
from virnucpro.scores.composition import LEAST, Mix, tuples
from virnucpro.scores.kinds import LIKENESS
from virnucpro.scores.thresholds import UNCERTAIN, VIRUS

FORMAT = 1
OTHER = "non-virus"
_OF_NULL = 0.1  # of P(null) that counts as evidence against a virus
# What N may hide is taken to be as viral as this (log-odds) before a record is called `non-virus`.
_MOST_HIDDEN = 12.0
# With fewer known letters than this, and fewer than N, a record is `uncertain` (nt).
_LEAST_CLEAR = 150
_LARGEST, _MOST_LENGTHS = 1e9, 1000

Floats = NDArray[np.float64]
Lengths = NDArray[np.integer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Parameters of one model; the defaults are those of a model without a calibration."""

    # chunk lengths at which slope and intercept were fitted, rising
    lengths_nt: tuple[float, ...] = (500.0,)
    slope: tuple[float, ...] = (1.0,)
    intercept: tuple[float, ...] = (0.0,)
    gain: float = 0.0  # how fast evidence grows with the number of chunks, 0 to 1
    pair_gain: float = 0.0  # the same for the mates of a pair, which lie further apart
    # added to the log-odds of a pair: for each unit of likeness of its mates (`Kinds.alike`), and
    # to all
    pair_likeness: tuple[float, ...] = (0.0, 0.0, 0.0)
    pair_intercept: float = 0.0
    # contig lengths at which the limits were chosen, rising
    limit_lengths_nt: tuple[float, ...] = (500.0,)
    virus_above: tuple[float, ...] = (0.5,)  # least p_virus of the call `virus`
    other_below: float = 0.5  # `non-virus` below; between the two, `uncertain`
    null_above: float = 2.0  # mean P(null) from which all is `uncertain`
    # least p_virus of the call `virus` of retro-transcribing kind: hosts have such genes as well
    retro_above: float = 0.0
    kind_above: float = 2.0  # least share of a kind of virus that is reported; above 1 for none
    family_above: float = 2.0  # likewise, least probability of a family
    mix: Mix = field(default_factory=Mix)  # what scores are like in each class of sequences

    @classmethod
    def load(cls, path: Path | None) -> Calibration:
        """Read a model's parameters; None gives the logistic of the mean chunk log-odds."""
        if path is None:
            return cls()
        value = read_json(path)
        try:
            if value.pop("format", None) != FORMAT:
                raise ValueError(f"not format {FORMAT}")
            value.pop("fitted_on", None)
            mix = Mix.of(value.pop("mix", {}))
            given: dict[str, Any] = dict(zip(value, tuples([*value.values()]), strict=True))
            known = cls(**given, mix=mix)
            known._check()
        except (ValueError, TypeError) as error:
            raise ModelError(f"{path}: not a calibration ({clipped(error)})") from error
        return known

    def save(self, path: Path, fitted_on: str) -> None:
        """Write the parameters; `fitted_on` says what they were fitted on."""
        write_json(path, {"format": FORMAT, "fitted_on": fitted_on, **asdict(self)})

    def _check(self) -> None:
        lists = (self.lengths_nt, self.slope, self.intercept, self.limit_lengths_nt,
                 self.virus_above)  # fmt: skip
        gains = (self.gain, self.pair_gain)
        limits = (self.null_above, self.retro_above, self.kind_above, self.family_above)
        numbers = [*(n for one in lists for n in one), *gains, self.other_below, *limits,
                   *self.pair_likeness, self.pair_intercept]  # fmt: skip
        if any(type(n) not in (int, float) or not abs(n) <= _LARGEST for n in numbers):
            raise ValueError(f"its parameters are lists of numbers, and numbers, up to {_LARGEST}")
        if not len(self.lengths_nt) == len(self.slope) == len(self.intercept):
            raise ValueError("lengths_nt, slope and intercept differ in length")
        if len(self.pair_likeness) != LIKENESS:
            raise ValueError(f"pair_likeness is not {LIKENESS} numbers")
        if len(self.limit_lengths_nt) != len(self.virus_above):
            raise ValueError("limit_lengths_nt and virus_above differ in length")
        for lengths in (self.lengths_nt, self.limit_lengths_nt):
            if not 0 < len(lengths) <= _MOST_LENGTHS or lengths[0] <= 0:
                raise ValueError(f"1 to {_MOST_LENGTHS} lengths, each over 0")
            if any(a >= b for a, b in itertools.pairwise(lengths)):
                raise ValueError("lengths must rise")
        shares = (*gains, self.other_below, *self.virus_above)
        if min(self.slope) <= 0 or min(*shares, *limits) < 0 or max(shares) > 1:
            raise ValueError("slopes must be positive, gain and limits of p_virus from 0 to 1")

    def log_odds(self, scores: Floats, lengths_nt: Lengths) -> Floats:
        """Calibrated log-odds of single chunks: scores (n, 2 or 3), lengths (n,) to (n,)."""
        z = raw_log_odds(scores)
        at = np.log(np.maximum(lengths_nt, 1).astype(np.float64))
        knots = np.log(self.lengths_nt)
        return np.interp(at, knots, self.slope) * z + np.interp(at, knots, self.intercept)

    def contigs(
        self, scores: Floats, lengths_nt: Lengths, contig_of: NDArray[np.integer],
        contig_nt: Lengths, hidden_nt: Lengths | None = None, alike: Floats | None = None,
    ) -> tuple[Floats, NDArray[np.str_]]:  # fmt: skip
        """Probability, NaN for a contig without chunks, and call of each contig: (contigs,) each.

        Args:
            scores: P(other), P(virus) and maybe P(null), or NaN, (chunks, 2 or more).
            lengths_nt: known letters of each chunk, (chunks,).
            contig_of: index of each chunk's contig, (chunks,).
            contig_nt: known letters of each contig, (contigs,); its chunks may overlap.
            hidden_nt: its other letters, (contigs,); None means there are none.
            alike: given, a contig stands for the mates of a pair: how alike they are, as
                `Kinds.alike` tells it, (contigs, 3); NaN where not both have a score.
        """
        count = len(contig_nt)
        weight = np.maximum(lengths_nt, 1).astype(np.float64)
        total = np.bincount(contig_of, weight, minlength=count)
        longest = np.ones(count)
        np.maximum.at(longest, contig_of, weight)
        safe, clear = np.maximum(total, 1.0), np.maximum(contig_nt, 1.0)
        mean = np.bincount(contig_of, weight * self.log_odds(scores, lengths_nt), count) / safe
        gain, added = self.gain, np.zeros(count)
        if alike is not None:
            likeness = alike @ self.pair_likeness
            gain, added = self.pair_gain, np.nan_to_num(likeness + self.pair_intercept)
        growth = np.maximum(clear / longest, 1.0) ** gain
        p = np.where(total > 0, logistic(mean * growth + added), np.nan)
        null = np.bincount(contig_of, weight * _null(scores), minlength=count) / safe
        limit = np.interp(np.log(clear), np.log(self.limit_lengths_nt), self.virus_above)
        hidden = np.zeros(count) if hidden_nt is None else hidden_nt
        share = hidden / (clear + hidden)
        most = mean + share * (np.maximum(mean, _MOST_HIDDEN) - mean)
        at_most = logistic(most * growth + added)
        calls = np.full(count, UNCERTAIN, dtype="<U9")
        is_told = (null < self.null_above) & ((clear >= _LEAST_CLEAR) | (clear >= hidden))
        calls[is_told & (p >= limit)] = VIRUS
        calls[is_told & (at_most < min(self.other_below, *self.virus_above))] = OTHER
        return p, calls


def raw_log_odds(scores: Floats) -> Floats:
    """Log-odds of a virus, from probabilities kept off 0 and 1: (n,)."""
    virus = np.clip(scores[:, 1].astype(np.float64), LEAST, 1 - LEAST)
    rest = np.clip(scores[:, 0] + _OF_NULL * _null(scores), LEAST, 1.0)
    return np.asarray(np.log(virus) - np.log(rest))


def logistic(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _null(scores: Floats) -> Floats:
    if scores.shape[1] < 3:
        return np.zeros(len(scores))
    return np.nan_to_num(scores[:, 2].astype(np.float64), nan=0.0)
