"""Prepare batches off the device's thread, each exactly once and in order.

Threads and not processes: laying out is numpy and byte pair encoding Rust, and both let go of the
interpreter, so nothing is pickled and no second process can touch the device.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from virnucpro.encoders.tokenizers import Tokenizer

Given = TypeVar("Given")
Made = TypeVar("Made")
_SLICE = 256  # sequences per call of a tokenizer
_POLL_S = 0.1


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
    stops the thread.
    """

    def __init__(self, source: Iterable[Made], depth: int) -> None:
        self._inline = iter(source) if depth < 1 else None
        self._made: queue.Queue[tuple[Made] | BaseException | None] = queue.Queue(max(depth, 1))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if depth >= 1:
            work = (source, self._made, self._stop)
            self._thread = threading.Thread(target=_fill, args=work, daemon=True, name="feeder")
            self._thread.start()

    @property
    def is_ready(self) -> bool:
        """Whether the next element, or the end, is there without waiting."""
        return self._inline is None and not self._made.empty()

    def __next__(self) -> Made:
        if self._inline is not None:
            return next(self._inline)
        element = self._made.get()
        if element is None:
            self._made.put(None)  # asked again, the end is still the end
            raise StopIteration
        if isinstance(element, BaseException):
            raise element
        return element[0]

    def __enter__(self) -> Ahead[Made]:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _fill(
    source: Iterable[Made],
    made: queue.Queue[tuple[Made] | BaseException | None],
    stop: threading.Event,
) -> None:
    try:
        for element in source:
            if not _put(made, (element,), stop):
                break
        _put(made, None, stop)
    except BaseException as error:  # noqa: BLE001 - it travels to the thread that reads
        _put(made, error, stop)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def _put(made: queue.Queue[Made], element: Made, stop: threading.Event) -> bool:
    while not stop.is_set():
        with suppress(queue.Full):
            made.put(element, timeout=_POLL_S)
            return True
    return False


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
