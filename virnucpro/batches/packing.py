"""First-fit decreasing: put sequences into as few batches of a fixed size as that rule finds.

Room 3. Sequences of one length are placed together, so the work grows with the number of
distinct lengths times the number of batches and not with the number of sequences.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from virnucpro.batches.budget import Lengths, longest_first
from virnucpro.core.errors import SequenceTooLongError

Counts = NDArray[np.int64]


class _Bins:
    """Open batches in the order they were opened: tokens and sequences still free in each."""

    def __init__(self, budget: int, most: int) -> None:
        self.budget, self.most = budget, most
        self.tokens: Counts = np.empty(0, dtype=np.int64)
        self.sequences: Counts = np.empty(0, dtype=np.int64)

    def place(self, tokens: int, count: int) -> Counts:
        """Put `count` sequences of `tokens` each where they first fit.

        Returns:
            How many went to each batch, shape (batches,); new batches are at the end.
        """
        capacity = np.minimum(self.tokens // tokens, self.sequences)
        before = np.cumsum(capacity) - capacity
        taken = np.clip(count - before, 0, capacity)
        left = count - int(taken.sum())
        each = min(self.budget // tokens, self.most)
        opened = -(-left // each)
        fresh = np.full(opened, each, dtype=np.int64)
        if opened:
            fresh[-1] = left - each * (opened - 1)
        taken = np.concatenate([taken, fresh])
        self.tokens = _grown(self.tokens, opened, self.budget) - taken * tokens
        self.sequences = _grown(self.sequences, opened, self.most) - taken
        return taken


def _grown(values: Counts, extra: int, value: int) -> Counts:
    return np.concatenate([values, np.full(extra, value, dtype=np.int64)])


def pack(lengths: Lengths, budget: int, max_sequences: int | None = None) -> list[Counts]:
    """Fill batches of `budget` tokens, longest sequences first, each where it first fits.

    Args:
        lengths: tokens per sequence with special tokens, shape (n,), each at least 1.
        budget: token slots of one batch.
        max_sequences: the most sequences one batch may hold; None means no limit.

    Returns:
        Indices into `lengths`, one array a batch, longest first within each; every index
        appears exactly once. Equal lengths keep their order, so the plan is reproducible.

    Raises:
        SequenceTooLongError: a single sequence has more tokens than `budget`.
        ValueError: a sequence without tokens, or a limit below 1.

    >>> [batch.tolist() for batch in pack([5, 3, 2, 1], budget=6)]
    [[0, 3], [1, 2]]
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if not len(sizes):
        return []
    most = len(sizes) if max_sequences is None else max_sequences
    if sizes.min() < 1 or most < 1:
        raise ValueError("every sequence needs at least one token, every batch one sequence")
    order = longest_first(sizes)
    if sizes[order[0]] > budget:
        raise SequenceTooLongError(int(order[0]), int(sizes[order[0]]), budget)
    bins = _Bins(budget, most)
    homes = []
    distinct, counts = np.unique(sizes, return_counts=True)
    for tokens, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        taken = bins.place(tokens, count)
        homes.append(np.repeat(np.arange(len(taken)), taken))
    home = np.concatenate(homes)
    by_home = np.argsort(home, kind="stable")
    edges = np.flatnonzero(np.diff(home[by_home])) + 1
    return list(np.split(order[by_home], edges))
