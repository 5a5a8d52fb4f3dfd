"""Group token sequences into batches that fit a token budget; no tensors."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def rectangles(widths: Counts, budget: int, narrowest: float = 0.0) -> Iterator[Counts]:
    """Indices of each batch, widest rows first, so many that all as wide as the first fit `budget`.

    Equal widths keep their order; rows under `narrowest` of the first begin another batch.

    >>> [batch.tolist() for batch in rectangles(np.array([2, 5, 3]), budget=6)]
    [[1], [2, 0]]
    """
    order = np.argsort(-widths, kind="stable")
    falling = -widths[order]
    first = 0
    while first < len(order):
        width = int(widths[order[first]])
        last = first + max(1, budget // max(1, width))
        if narrowest:
            last = min(last, int(np.searchsorted(falling, -narrowest * width, side="right")))
        yield order[first:last]
        first = last


def pack(lengths: Counts, budget: int) -> list[Counts]:
    """Fill batches of `budget` tokens, longest sequences first, each where it first fits.

    Equal lengths keep their order, so the plan is reproducible; what is over `budget` goes alone.

    >>> [batch.tolist() for batch in pack(np.array([5, 3, 2, 1]), budget=6)]
    [[0, 3], [1, 2]]
    """
    if not len(lengths):
        return []
    free: Counts = np.empty(0, dtype=np.int64)  # tokens of each batch, in the order of opening
    homes = []
    distinct, counts = np.unique(lengths, return_counts=True)
    for tokens, count in zip(distinct[::-1].tolist(), counts[::-1].tolist(), strict=True):
        capacity = np.maximum(free, 0) // tokens
        taken = np.clip(count - (np.cumsum(capacity) - capacity), 0, capacity)
        left, each = count - int(taken.sum()), max(1, budget // tokens)
        fresh = np.full(-(-left // each), each, dtype=np.int64)
        if len(fresh):
            fresh[-1] = left - each * (len(fresh) - 1)
        taken = np.concatenate([taken, fresh])
        free = np.pad(free, (0, len(fresh)), constant_values=budget) - taken * tokens
        homes.append(np.repeat(np.arange(len(taken)), taken))
    home = np.concatenate(homes)
    by_home = np.argsort(home, kind="stable")
    edges = np.flatnonzero(np.diff(home[by_home])) + 1
    order = np.argsort(-lengths, kind="stable")
    return np.split(order[by_home], edges)
