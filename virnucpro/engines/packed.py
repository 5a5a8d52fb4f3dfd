"""Batches as one row of tokens: sequences end to end, nothing between them.

Room 5. Filled by first-fit decreasing over all lengths of a unit of work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.records import Tokens
from virnucpro.encoders.batches import PackedBatch
from virnucpro.engines.plans import Lengths, collate_packed, pack

TOKENS_PER_SEQUENCE = 32  # a batch holds at most budget / 32 sequences: a bound for fixed shapes
LONGEST_STEP = 128  # rows of queries that an attention kernel takes at once


class PackedPlan:
    """Plans and builds rows of tokens.

    Args:
        pad_id: token that fills a row of fixed length.
        longest: tokens of the longest sequence to come, if that is known.
    """

    name = "packed"

    def __init__(self, pad_id: int, longest: int = 0) -> None:
        self.pad_id = pad_id
        self._longest = LONGEST_STEP
        self._allow(longest)

    def plan(self, lengths: Lengths, budget: int) -> list[NDArray[np.int64]]:
        """Indices of each batch, longest first; every index appears exactly once."""
        return pack(lengths, budget, most_sequences(budget))

    def slots(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token slots that each sequence takes, shape (n,)."""
        return lengths

    def collate(self, items: Sequence[Tokens]) -> PackedBatch:
        """Join `items` end to end."""
        return collate_packed(items)

    def fixed(self, batch: PackedBatch, budget: int) -> PackedBatch | None:
        """The same row, filled up to `budget` tokens and to a fixed number of segments.

        Padding follows the last sequence as segments of its own, then come segments without
        tokens, so nothing that is kept can see it. None if more than a quarter is missing.
        """
        real = len(batch.tokens)
        missing = budget - real
        if missing < 0 or missing * 4 > budget:
            return None
        self._allow(batch.max_length)
        tail = [*range(real + self._longest, budget, self._longest), budget] if missing else []
        empty = segments(budget) - len(batch) - len(tail)
        if empty < 0:
            return None
        ends = torch.tensor(tail + [budget] * empty, dtype=torch.int32)
        tokens = torch.nn.functional.pad(batch.tokens, (0, missing), value=self.pad_id)
        bounds = torch.cat([batch.cu_seqlens, ends])
        return PackedBatch(tokens, bounds, self._longest)

    def _allow(self, longest: int) -> None:
        self._longest = max(self._longest, -(-longest // LONGEST_STEP) * LONGEST_STEP)


def most_sequences(budget: int) -> int:
    """The most sequences that a batch of `budget` tokens may hold."""
    return max(1, budget // TOKENS_PER_SEQUENCE)


def segments(budget: int) -> int:
    """Segments of a row of fixed shape: sequences, and room for a quarter of padding."""
    return most_sequences(budget) + budget // (4 * LONGEST_STEP) + 2
