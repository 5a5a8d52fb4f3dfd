"""Make batches of sequences, and prepare them off the device's thread, each once and in order.

Threads and not processes: numpy and the tokenizers let go of the interpreter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from virnucpro.encoders.tokenizers import Tokenizer

Given = TypeVar("Given")
Made = TypeVar("Made")
Counts = NDArray[np.int64]
_SLICE = 256  # sequences per call of a tokenizer


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
        width = -int(falling[first])
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
    return np.split(np.argsort(-lengths, kind="stable")[by_home], edges)


def spread(make: Callable[[Given], Made], given: Iterable[Given], threads: int) -> Iterator[Made]:
    """`map` over threads: same order, at most two pieces of work waiting per thread.

    `given` is read from the calling thread only, which also does the work for 0 or 1 threads.
    """
    if threads <= 1:
        yield from map(make, given)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="feeding")
    waiting: deque[Future[Made]] = deque()
    try:
        for element in given:
            waiting.append(pool.submit(make, element))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Ahead(Iterator[Made]):
    """Runs `source` in a thread, at most `depth` elements ahead; 0 runs it in this one.

    An error in `source` is raised here, after the elements before it. Leaving the `with` block
    ends the thread and closes the source.
    """

    def __init__(self, source: Iterable[Made], depth: int) -> None:
        self._source = iter(source)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="feeder") if depth else None
        # Elements as lists of one; the end is an empty one.
        self._waiting: deque[Future[list[Made]]] = deque()
        for _ in range(depth):
            self._ask()

    def _ask(self) -> None:
        if self._pool:
            self._waiting.append(self._pool.submit(lambda: list(islice(self._source, 1))))

    @property
    def is_ready(self) -> bool:
        """Whether the next element, or the end, is there without waiting."""
        return bool(self._waiting) and self._waiting[0].done()

    def __next__(self) -> Made:
        if self._pool is None:
            return next(self._source)
        self._ask()
        if element := self._waiting.popleft().result():
            return element[0]
        raise StopIteration

    def __enter__(self) -> Ahead[Made]:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(self._source, Generator):
            self._source.close()


def tokenize(
    tokenizer: Tokenizer, sequences: Sequence[str], threads: int = 1
) -> list[NDArray[np.int64]]:
    """Token ids of `sequences`, in their order; `threads` slices side by side."""
    parts = [sequences[at : at + _SLICE] for at in range(0, len(sequences), _SLICE)]
    return [tokens for part in spread(tokenizer.encode_batch, parts, threads) for tokens in part]
