"""Processes that we start leave Ctrl-C to their parent, end with it, and may be lost."""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.pool import TERMINATE, Pool
from typing import Any, TypeVar

logger = logging.getLogger("virnucpro.core")

WATCH_S = 1.0
HUNG_S = 900.0  # no task takes a tenth of this, also on a slow disk

Task = TypeVar("Task")
Result = TypeVar("Result")


def become_worker() -> None:
    """Call it first in a spawned process."""

    def end_with_parent() -> None:  # however that ends
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=end_with_parent, daemon=True, name="parent-watch").start()


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in this block leave Ctrl-C to their parent, from their first moment."""
    is_main = threading.current_thread() is threading.main_thread()  # the only one that may
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


# Each library has its own, read when it is loaded. Whoever asks for tokens computes them, and not
# one pool for all that ask.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


@contextmanager
def at_most_threads(threads: int, with_torch: bool = True) -> Iterator[None]:
    """Bound CPU threads in this block; processes that it starts have one each."""
    if with_torch:
        import torch  # before the variables are set: it would take them for its own

        before = torch.get_num_threads()
        torch.set_num_threads(min(threads, before))
    known = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        if with_torch:
            torch.set_num_threads(before)
        for name in _ONE_THREAD:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in known.items() if value is not None})


def map_in_order(
    pool: Pool, work: Callable[[Task], Result], tasks: Iterable[Task], window: int
) -> Iterator[Result]:
    """Results of `work`, in task order, with at most two windows of tasks in memory.

    Exceptions of `work`, a top-level function, and of `tasks` come out here. The pool, started
    inside `children_ignore_interrupts`, ends with this. It would wait for ever for the task that a
    killed worker held: its processes are watched, and what is left is computed in this one.
    """
    at_start, is_lost = _pids(pool), False
    running: deque[tuple[list[Task], Any]] = deque()
    source = iter(tasks)
    try:
        while (some := list(islice(source, window))) or running:
            if some:
                running.append((some, None if is_lost else pool.imap(work, some, chunksize=1)))
                if len(running) < 2:
                    continue
            some, results = running.popleft()
            for done, task in enumerate(some):
                found = [] if is_lost else _next(results, pool, at_start)
                if not found and not is_lost:
                    is_lost = True
                    told = "a worker process was killed or hangs; going on in this process"
                    logger.warning("%s (%d tasks or more)", told, len(some) - done)
                    _kill(pool)
                yield found[0] if found else work(task)
    except BaseException:
        _kill(pool)
        raise
    if not is_lost:
        pool.__exit__(None, None, None)


def _next(results: Any, pool: Pool, at_start: set[int | None]) -> list[Any]:
    """The next result; nothing if it will never come."""
    for waited_s in range(int(HUNG_S / WATCH_S)):
        if waited_s and not at_start <= _pids(pool):
            break
        with suppress(multiprocessing.TimeoutError):
            return [results.next(timeout=WATCH_S)]
    return []


def _kill(pool: Any) -> None:
    """End the processes of a pool that may have lost some, and leave its daemon threads to wait."""
    # `Pool.terminate` waits for ever for a lock that a killed worker held, or a result's rest
    pool._worker_handler._state = pool._state = TERMINATE  # it was ended: no warning when collected
    pool._change_notifier.put(None)
    pool._worker_handler.join(WATCH_S)  # the thread that starts workers in place of lost ones
    pool._terminate.cancel()  # what would run at exit, and wait
    for process in list(pool._pool):
        process.kill()
        process.join()


def _pids(pool: Any) -> set[int | None]:
    """Living workers of a pool, which starts new ones in place of those that died."""
    return {process.pid for process in list(pool._pool) if process.is_alive()}
