"""Which sequences each shard holds.

The plan depends on the input and on the kind of encoder alone, never on the number of ranks or
on what is already done, so a shard always holds the same sequences in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from virnucpro.pipeline.sequence_index import SequenceIndex

PLAN_FORMAT = 1
FEWEST_SHARDS = 16
_MOST_LETTERS = 1022  # tokenizers cut proteins there; only a hint for anything else
_DEFAULT = "mini"


@dataclass(frozen=True, slots=True)
class Unit:
    """What a shard of one kind of encoder holds.

    Attributes:
        tokens: at most this many, a little under a multiple of the usual token budgets, so
            that full batches are full.
        letters_per_token: about.
        specials: special tokens of a sequence.
        readers: processes that keep one GPU supplied with tokens.
    """

    tokens: int
    letters_per_token: float
    specials: int
    readers: int

    def estimate(self, index: SequenceIndex) -> int:
        """Tokens of all sequences, about."""
        return self.tokens_of(index.letters, len(index))

    def tokens_of(self, letters: int, sequences: int) -> int:
        """Tokens of so many letters in so many sequences, about."""
        return int(letters / self.letters_per_token) + self.specials * sequences

    def longest(self, index: SequenceIndex) -> int:
        """Tokens of the longest sequence, about; never less."""
        return min(int(index.lengths[:1].sum()), _MOST_LETTERS) + self.specials


UNITS = {
    "esm2": Unit(int(0.985 * 2**18), 1.0, 2, 1),
    "dnabert": Unit(2**20, 4.8, 2, 2),
    _DEFAULT: Unit(2**21, 1.0, 0, 1),
}


def unit_of(kind: str) -> Unit:
    """The unit of an encoder of this kind."""
    return UNITS.get(kind, UNITS[_DEFAULT])


def plan_shards(index: SequenceIndex, unit: Unit) -> list[np.ndarray[Any, Any]]:
    """Positions in `index` of each shard: every k-th of the sequences, longest first.

    As many shards as keep within the size of a unit, and a few at least, so that there is work
    for many ranks and little to do again after a failure.
    """
    shards = max(-(-unit.estimate(index) // unit.tokens), min(FEWEST_SHARDS, len(index)))
    return [np.arange(k, len(index), shards) for k in range(min(shards, len(index)))]
