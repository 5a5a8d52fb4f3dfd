"""Group token sequences into batches that fit a token budget, and lay them out.

`batches_within` splits one length-sorted queue and pays for padding or not; `pack` fills rows
without padding better, by first-fit decreasing. Both take lengths and give indices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.errors import SequenceTooLongError
from virnucpro.core.records import Tokens
from virnucpro.encoders.batches import PackedBatch, PaddedBatch

Cost = Callable[[int, int, int], int]  # (sequences, longest, total) -> tokens paid for
Lengths = Sequence[int] | NDArray[np.integer]
Counts = NDArray[np.int64]


def padded_cost(sequences: int, longest: int, total: int) -> int:
    """Tokens in a rectangle: every row as long as the longest."""
    return sequences * longest


def packed_cost(sequences: int, longest: int, total: int) -> int:
    """Tokens laid end to end: nothing but the sequences."""
    return total


def longest_first(lengths: Lengths) -> NDArray[np.int64]:
    """Indices by falling length; equal lengths keep their order."""
    return np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")


def batches_within(lengths: Lengths, budget: int, cost: Cost) -> Iterator[list[int]]:
    """Split sequences into batches, longest first, none dearer than `budget`.

    Args:
        lengths: tokens per sequence with special tokens, shape (n,).
        budget: the most one batch may cost (tokens).
        cost: `padded_cost` or `packed_cost`.

    Yields:
        Indices into `lengths`; each index appears exactly once.

    Raises:
        SequenceTooLongError: a single sequence costs more than `budget`.

    Source:
        One queue, two costs: text-embeddings-inference, core/src/queue.rs at 0206214.

    >>> list(batches_within([5, 3, 2], budget=6, cost=padded_cost))
    [[0], [1, 2]]
    """
    batch: list[int] = []
    longest = total = 0
    for i in longest_first(lengths).tolist():
        tokens = int(lengths[i])
        if cost(1, tokens, tokens) > budget:
            raise SequenceTooLongError(i, tokens, budget)
        if batch and cost(len(batch) + 1, longest, total + tokens) > budget:
            yield batch
            batch, longest, total = [], 0, 0
        batch.append(i)
        longest, total = max(longest, tokens), total + tokens
    if batch:
        yield batch


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


def collate_padded(items: Sequence[Tokens], pad_id: int) -> PaddedBatch:
    """Stack sequences into a rectangle filled up with `pad_id`.

    Raises:
        ValueError: if there are no items, or an item has no tokens.
    """
    lengths = _lengths(items)
    tokens = np.full((len(items), int(lengths.max())), pad_id, dtype=np.int64)
    for row, item in zip(tokens, items, strict=True):
        row[: len(item)] = item
    return PaddedBatch(torch.from_numpy(tokens), torch.from_numpy(lengths))


def collate_packed(items: Sequence[Tokens]) -> PackedBatch:
    """Join sequences end to end.

    Raises:
        ValueError: if there are no items, or an item has no tokens.
    """
    lengths = _lengths(items)
    bounds = np.zeros(len(items) + 1, dtype=np.int32)
    np.cumsum(lengths, out=bounds[1:])
    tokens = np.concatenate(items).astype(np.int64, copy=False)
    return PackedBatch(torch.from_numpy(tokens), torch.from_numpy(bounds), int(lengths.max()))


def _lengths(items: Sequence[Tokens]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    lengths = np.array([len(item) for item in items], dtype=np.int64)
    if not len(lengths) or not lengths.all():
        raise ValueError("a batch needs at least one sequence, and each at least one token")
    return lengths
