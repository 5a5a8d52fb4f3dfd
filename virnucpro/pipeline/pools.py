"""Ordered results from a pool of spawned processes, with an eye on the processes.

`multiprocessing.Pool` starts a new worker when one is killed, but never finishes the task that
the dead one held: its caller waits for ever. Here the wait is watched, and what is left is
computed in this process.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

logger = logging.getLogger("virnucpro.pipeline.pools")

WATCH_S = 1.0

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_order(
    pool: Pool, work: Callable[[Task], Result], windows: Iterable[Sequence[Task]]
) -> Iterator[Result]:
    """Results of `work`, in task order, with at most two windows of tasks in memory.

    Args:
        pool: started inside `children_ignore_interrupts`.
        work: a top-level function.
        windows: tasks in groups; the next group is read while the last one is worked on.

    Yields:
        One result a task. Exceptions of `work` and of `windows` come out here.
    """
    watched = _WatchedPool(pool)
    running: deque[tuple[Sequence[Task], Any]] = deque()
    for tasks in windows:
        running.append((tasks, watched.start(work, tasks)))
        if len(running) == 2:
            yield from watched.drain(work, *running.popleft())
    while running:
        yield from watched.drain(work, *running.popleft())


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in this block leave Ctrl-C to their parent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


class _WatchedPool:
    def __init__(self, pool: Pool) -> None:
        self.pool, self.lost = pool, False
        self.workers = _child_pids()

    def start(self, work: Callable[[Task], Result], tasks: Sequence[Task]) -> Any:
        return None if self.lost else self.pool.imap(work, tasks, chunksize=1)

    def drain(
        self, work: Callable[[Task], Result], tasks: Sequence[Task], results: Any
    ) -> Iterator[Result]:
        for done in range(len(tasks)):
            if not self.lost and self._waits_in_vain(results):
                self._give_up(len(tasks) - done)
            yield work(tasks[done]) if self.lost else self.result

    def _waits_in_vain(self, results: Any) -> bool:
        while True:
            try:
                self.result = results.next(timeout=WATCH_S)
                return False
            except multiprocessing.TimeoutError:
                if not self.workers <= _child_pids():
                    return True

    def _give_up(self, left: int) -> None:
        self.lost = True
        logger.warning(
            "a worker process was killed; going on in this process (%d tasks or more)", left
        )
        # A worker killed while it waited for a task still holds the queue's lock, which
        # terminate() would wait for.
        lock = self.pool._inqueue._rlock  # type: ignore[attr-defined]
        lock.acquire(timeout=0.1)
        lock.release()
        self.pool.terminate()


def _child_pids() -> set[int | None]:
    return {child.pid for child in multiprocessing.active_children()}
