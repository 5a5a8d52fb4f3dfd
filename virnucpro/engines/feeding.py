"""Prepare batches off the device's thread, each exactly once and in order.

Threads and not processes: laying out is numpy and byte pair encoding Rust, and both let go of the
interpreter, so nothing is pickled and no second process can touch the device.
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
_SLICE = 256  # sequences per call of a tokenizer


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
        if self._pool:
            self._waiting.extend(self._pool.submit(self._next) for _ in range(depth))

    def _next(self) -> list[Made]:
        return list(islice(self._source, 1))

    @property
    def is_ready(self) -> bool:
        """Whether the next element, or the end, is there without waiting."""
        return bool(self._waiting) and self._waiting[0].done()

    def __next__(self) -> Made:
        if self._pool is None:
            return next(self._source)
        self._waiting.append(self._pool.submit(self._next))
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
    many = getattr(tokenizer, "encode_batch", None)

    def encode(start: int) -> list[NDArray[np.int64]]:
        some = sequences[start : start + _SLICE]
        return list(many(some)) if many else [tokenizer.encode(letters) for letters in some]

    slices = spread(encode, range(0, len(sequences), _SLICE), threads)
    return [tokens for part in slices for tokens in part]
