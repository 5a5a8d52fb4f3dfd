"""Group token sequences into batches that fit a token budget.

Room 3 (token ids -> batches). No tensors here: lengths in, indices out. `batches_within`
splits one length-sorted queue for either cost; `packing.pack` fills the packed layout better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import SequenceTooLongError

Cost = Callable[[int, int, int], int]  # (sequences, longest, total) -> tokens paid for
Lengths = Sequence[int] | NDArray[np.integer]


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


def fill(lengths: Lengths, batches: int, budget: int) -> float:
    """Real tokens over token slots: 1 is a plan without a gap, and nothing is above 1.

    Args:
        lengths: tokens per sequence, shape (n,).
        batches: how many batches they were put into.
        budget: token slots of one batch.

    >>> fill([5, 3, 2], batches=2, budget=6)
    0.8333333333333334
    """
    return float(np.sum(lengths)) / (batches * budget) if batches else 1.0
