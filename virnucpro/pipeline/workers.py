"""Worker processes that run the loop: units out, results back, and no unit lost with a worker."""

import logging
import multiprocessing
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from virnucpro.core.log import relay_logs, replay, setup_logging
from virnucpro.core.processes import become_worker, children_ignore_interrupts
from virnucpro.pipeline import worker_loop
from virnucpro.pipeline.worker_loop import LOAD_ONLY, Done, Failed, Job, Outcome, work
from virnucpro.scores.scorer import LoadedModels

logger = logging.getLogger("virnucpro.pipeline.workers")

MOST_ATTEMPTS = 2
AHEAD = 2  # units a worker holds: one computes, the next is prepared
_TICK_S = 1.0
_START_S = 900.0  # weights may come from a slow disk, with nothing to say meanwhile
_END_S = 3.0
_MOST_LOSSES = 3  # in a row and for each worker, without a unit done between them


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker process runs."""

    device: str = "cpu"  # or cuda:N
    threads: int | None = None  # of arithmetic; None leaves torch's choice
    cache_clear_interval: int = 0  # units between two clearings of the GPU cache; 0 never
    log_level: int = logging.INFO  # the lowest whose lines reach the parent
    log_file: Path | None = None  # gets the lines in place of the parent
    heartbeat_s: float = 0.5  # least time between two signs of life


@dataclass(eq=False, kw_only=True)
class Worker:
    """One process, the parent's end of its pipe, and the units that it holds, oldest first."""

    number: int
    process: SpawnProcess
    connection: Connection
    settings: WorkerSettings
    held: list[int] = field(default_factory=list)
    heard: float = field(default_factory=time.monotonic)
    is_ready: bool = False
    stats: dict[str, Any] = field(default_factory=dict)  # as `Done` has them
    loads: int = 0


class Workers:
    """Processes that run the loop, one a device; they stay, with what they loaded, until `close`.

    Pipes are private to a worker, so a killed one can neither block nor garble the others. Silence
    for `worker_timeout` seconds means that a busy one hangs.
    """

    def __init__(
        self,
        settings: Sequence[WorkerSettings],
        worker_timeout: float = 900.0,
        name: str = "virnucpro",
    ) -> None:
        self._settings, self._name = list(settings), name
        self.worker_timeout = worker_timeout
        self.pool: list[Worker] | None = None  # before the first run, and after `close`

    def start(self) -> list[Worker]:
        """Start the workers that do not run yet; all of them."""
        if self.pool is None:
            self.pool = [self._start(k, settings) for k, settings in enumerate(self._settings)]
        return self.pool

    def close(self) -> None:
        """End the workers: asked first, then killed."""
        workers, self.pool = self.pool or [], None
        for worker in workers:
            with suppress(OSError):
                worker.connection.send(None)
            if worker.held:
                worker.process.terminate()
        deadline = time.monotonic() + _END_S
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            self._kill(worker)

    def run(
        self, job: Job, items: Iterable[worker_loop.Item], on_rows: worker_loop.OnRows
    ) -> Iterator[Outcome]:
        """See `Executor`."""
        self._job, self._items, self._on_rows = job, iter(items), on_rows
        self._units: dict[int, Any] = {}  # those that are not done
        self._back: deque[int] = deque()  # units of lost workers, and those that failed once
        self._failures = Counter[int]()
        self._losses, self._has_more = 0, True
        for first in self._items:
            if first[0] == LOAD_ONLY:
                break
            if first[1] is not None:
                self._items = chain([first], self._items)
                break
            yield Done(first[0])
        else:
            return
        try:
            self._active = [w if w.process.is_alive() else self._replace(w) for w in self.start()]
            for worker in self._active:
                self._greet(worker)
            while self._has_more or self._units:
                if self._losses > _MOST_LOSSES * len(self._active):
                    break
                wait_s = yield from self._hand_out()
                if self._has_more or self._units:
                    yield from self._listen(wait_s)
            rest = chain(self._units.items(), self._items)
            for position, (key, unit) in enumerate(rest):
                number = position % len(self._active)
                yield Done(key) if unit is None else Failed(key, "no worker is left", None, number)
        finally:
            for worker in self.pool or []:
                if worker.held:  # no late answer may meet a later caller
                    self._kill(worker)

    def _start(self, number: int, settings: WorkerSettings) -> Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker_main, args=(theirs, settings, number), daemon=True,
            name=f"{self._name}-{number}",
        )  # fmt: skip
        with children_ignore_interrupts():
            process.start()
        theirs.close()
        return Worker(number=number, process=process, connection=ours, settings=settings)

    def _kill(self, worker: Worker) -> None:
        worker.held.clear()
        worker.process.kill()
        worker.process.join()
        worker.connection.close()

    def _replace(self, worker: Worker) -> Worker:
        self._kill(worker)
        self.start()[worker.number] = fresh = self._start(worker.number, worker.settings)
        return fresh

    def _greet(self, worker: Worker) -> None:
        """Let a worker load the job while the first units are still being read."""
        worker.is_ready, worker.heard = False, time.monotonic()
        with suppress(OSError):  # its end is seen when it is listened to
            worker.connection.send((LOAD_ONLY, self._job, None))

    def _hand_out(self) -> Generator[Done, None, float]:
        """Give every worker one unit, then a second, or pass on one that had been done before.

        Returns how long there is to wait for workers then (s).
        """
        for depth in range(1, AHEAD + 1):
            for worker in self._active:
                while len(worker.held) < depth:
                    if any(map(self._failures.get, worker.held)):
                        break  # a unit that failed before is alone with its worker
                    if self._back and not (worker.held and self._failures[self._back[0]]):
                        key = self._back.popleft()
                    elif (item := next(self._items, None)) is None:
                        self._has_more = False
                        break
                    elif item[1] is None:
                        yield Done(item[0])
                        return 0.0
                    else:
                        key, self._units[item[0]] = item[0], item[1]
                    if not worker.held:
                        worker.heard = time.monotonic()
                    worker.held.append(key)
                    with suppress(OSError):
                        worker.connection.send((key, self._job, self._units[key]))
        return _TICK_S

    def _listen(self, wait_s: float) -> Iterator[Outcome]:
        """What workers said by now, and what became of the units of those that fell silent."""
        of = {worker.connection: worker for worker in self._active}
        for connection in wait(list(of), wait_s):
            worker = of[connection]  # type: ignore[index]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join(_END_S)
                reason = f"worker process died (exit code {worker.process.exitcode})"
                yield from self._lost(worker, reason)
                continue
            worker.heard = time.monotonic()
            if isinstance(message, logging.LogRecord):
                replay(message)
            elif isinstance(message, int):
                self._on_rows(message)
            else:
                yield from self._hear(worker, message)
        now = time.monotonic()
        for worker in list(self._active):
            patience = max(self.worker_timeout, 0.0 if worker.is_ready else _START_S)
            if worker.held and now - worker.heard > patience:
                yield from self._lost(worker, f"no sign of life for {patience:g} s")

    def _hear(self, worker: Worker, message: Done | Failed) -> Iterator[Outcome]:
        key = message.key
        if isinstance(message, Failed) and key == LOAD_ONLY:
            self._back.extendleft(reversed(worker.held))
            worker.held.clear()
            self._active.remove(worker)
            if not self._active:
                message.raise_if_hopeless()
            logger.warning("worker %d cannot start: %s", worker.number, message.reason)
        elif isinstance(message, Failed):
            worker.held.remove(key)
            message.raise_if_hopeless()
            yield from self._blame(worker, key, message.reason)
        else:
            worker.is_ready, worker.stats, worker.loads = True, message.stats, message.loads
            if key != LOAD_ONLY:
                worker.held.remove(key)
                self._losses = 0
                del self._units[key]
                yield message

    def _lost(self, worker: Worker, reason: str) -> Iterator[Outcome]:
        """Give a lost worker's units to others; the one that it computed has failed once more."""
        held = list(worker.held)
        logger.warning("worker %d: %s; a new one takes its place", worker.number, reason)
        self._losses += 1
        self._back.extendleft(reversed(held[1:]))
        self._active[self._active.index(worker)] = fresh = self._replace(worker)
        self._greet(fresh)
        if held:
            yield from self._blame(worker, held[0], reason)

    def _blame(self, worker: Worker, key: int, reason: str) -> Iterator[Outcome]:
        self._failures[key] += 1
        if self._failures[key] < MOST_ATTEMPTS:
            logger.warning("unit %d: %s; trying it again, alone", key, reason)
            self._back.append(key)
        else:
            del self._units[key]
            yield Failed(key, reason, None, worker.number)


def worker_main(connection: Connection, settings: WorkerSettings, number: int) -> None:
    """Serve units from `connection` until it brings None or closes, or the parent ends."""
    become_worker()
    sending = threading.Lock()

    def send(message: object) -> None:
        with sending, suppress(OSError):  # a lost parent ends this process anyway
            connection.send(message)

    if settings.log_file is None:
        relay_logs(send, settings.log_level)
    else:
        log = setup_logging(quiet=True, log_file=settings.log_file)
        log.info("Worker %d on %s, pid %d", number, settings.device, os.getpid())
    if settings.device != "cpu":
        # Long-lived workers fragment CUDA memory; read when torch first allocates there.
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)  # where the parent left one to every process

    def inbox() -> Iterator[tuple[int, Job, Any]]:
        with suppress(EOFError, OSError):
            while (item := connection.recv()) is not None:
                yield item

    models = LoadedModels(settings.device, settings.threads, settings.cache_clear_interval)
    rows, last = 0, time.monotonic()
    for message in work(models, inbox()):
        rows += message if isinstance(message, int) else 0
        if isinstance(message, int) and time.monotonic() - last < settings.heartbeat_s:
            continue
        if rows or isinstance(message, int):  # a sign of life, also without rows
            send(rows)
        if not isinstance(message, int):
            send(message)
        rows, last = 0, time.monotonic()
