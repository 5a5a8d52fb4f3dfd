"""Ordered results from a pool of spawned processes, with an eye on the processes.

`multiprocessing.Pool` never finishes the task that a killed worker held: its caller waits for ever.
Here the wait is watched, and what is left is computed in this process.
"""

import logging
import multiprocessing
import multiprocessing.pool
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from multiprocessing.pool import Pool
from typing import Any, TypeVar

from virnucpro.core.processes import children_ignore_interrupts

logger = logging.getLogger("virnucpro.pipeline.pools")

WATCH_S = 1.0
HUNG_S = 900.0  # no task takes a tenth of this, also on a slow disk

Task = TypeVar("Task")
Result = TypeVar("Result")


class _LostWorkerError(Exception):
    """A result will never come."""


def in_processes(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, window: int
) -> Iterator[Result]:
    """As `map_in_order`, in windows of so many tasks, by processes that start with the first."""
    source = iter(tasks)
    windows = iter(lambda: list(islice(source, window)), [])
    if first := next(windows, None):
        with children_ignore_interrupts():
            pool = multiprocessing.get_context("spawn").Pool(min(workers, len(first)))
        yield from map_in_order(pool, work, chain([first], windows))


def map_in_order(
    pool: Pool, work: Callable[[Task], Result], windows: Iterable[Sequence[Task]]
) -> Iterator[Result]:
    """Results of `work`, in task order, with at most two windows of tasks in memory.

    Exceptions of `work`, a top-level function, and of `windows` come out here. The pool, started
    inside `children_ignore_interrupts`, ends with this.
    """
    at_start = _pids(pool)
    is_lost = False
    running: deque[tuple[Sequence[Task], Any]] = deque()
    source = iter(windows)
    try:
        while (tasks := next(source, None)) is not None or running:
            if tasks is not None:
                running.append((tasks, None if is_lost else pool.imap(work, tasks, chunksize=1)))
                if len(running) < 2:
                    continue
            tasks, results = running.popleft()
            for done, task in enumerate(tasks):
                try:
                    result = work(task) if is_lost else _next(results, pool, at_start)
                except _LostWorkerError:
                    is_lost = True
                    logger.warning(
                        "a worker process was killed or hangs; going on in this process "
                        "(%d tasks or more)", len(tasks) - done,
                    )  # fmt: skip
                    _kill(pool)
                    result = work(task)
                yield result
    except BaseException:
        _kill(pool)
        raise
    if not is_lost:
        pool.__exit__(None, None, None)


def _next(results: Any, pool: Pool, at_start: set[int | None]) -> Any:
    for waited_s in range(int(HUNG_S / WATCH_S)):
        if waited_s and not at_start <= _pids(pool):
            break
        with suppress(multiprocessing.TimeoutError):
            return results.next(timeout=WATCH_S)
    raise _LostWorkerError


def _kill(pool: Pool) -> None:
    """End the processes of a pool that may have lost some, and leave its daemon threads to wait.

    `Pool.terminate` waits for ever for a lock that a killed worker held, or the rest of its result.
    """
    if not isinstance(pool, Pool):
        return
    inside: Any = pool
    inside._worker_handler._state = multiprocessing.pool.TERMINATE
    inside._state = multiprocessing.pool.TERMINATE  # it was ended: no warning when collected
    inside._change_notifier.put(None)
    inside._worker_handler.join(WATCH_S)  # the thread that starts workers in place of lost ones
    inside._terminate.cancel()  # what would run at exit, and wait
    for process in list(inside._pool):
        process.kill()
        process.join()


def _pids(pool: Pool) -> set[int | None]:
    """Living workers of a pool, which starts new ones in place of those that died."""
    inside: Any = pool
    return {process.pid for process in list(getattr(inside, "_pool", ())) if process.is_alive()}
