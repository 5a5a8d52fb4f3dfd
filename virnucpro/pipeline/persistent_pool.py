"""Worker processes that outlive a stage: started once, encoders kept, one pipe each.

Pipes are private to a worker, so a killed one can neither block nor garble the others.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType

from virnucpro.core.device import usable_cpus
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.pipeline.embedding_worker import worker_main
from virnucpro.pipeline.jobs import FeatureJob, Heartbeat, JobDone, JobFailed, WorkerSettings
from virnucpro.pipeline.worker_logs import LogLine

logger = logging.getLogger("virnucpro.pipeline.workers")

STOP_S = 2.0


@dataclass(eq=False, slots=True)
class Worker:
    """One process, the parent's end of its pipe, and the job it holds."""

    process: BaseProcess
    connection: Connection
    settings: WorkerSettings
    job: FeatureJob | None = None
    last_word: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        """End the process at once and free its pipe; the worker then holds no job."""
        self.job = None
        self.process.kill()
        self.process.join()
        self.connection.close()


Event = tuple[Worker, FeatureJob, Heartbeat | JobDone | JobFailed]


class PersistentWorkerPool:
    """Workers that keep their encoders loaded between stages and between inputs.

    Args:
        num_workers: processes, shared out over the devices in turn.
        model_type: name of the model they serve, for process names and log lines.
        devices: `cpu`, or `cuda:N` for each GPU.
        cache_clear_interval: jobs between two clearings of a worker's GPU cache; 0 never.
        worker_timeout: silence after which a busy worker counts as hung (s).
        threads: CPU threads of all workers together; None means the usable CPUs.

    Attributes:
        pool: the workers; None before `create_pool` and after `close`.

    Raises:
        ValueError: no workers or no devices.
    """

    def __init__(
        self,
        num_workers: int,
        model_type: str,
        *,
        devices: Sequence[str] = ("cpu",),
        cache_clear_interval: int = 10,
        worker_timeout: float = 900.0,
        threads: int | None = None,
    ) -> None:
        if num_workers < 1 or not devices:
            raise ValueError(f"a pool needs workers and devices, got {num_workers} on {devices}")
        self.num_workers, self.model_type = num_workers, model_type
        self.worker_timeout = worker_timeout
        self.pool: list[Worker] | None = None
        common = WorkerSettings(
            threads=max(1, (threads or usable_cpus()) // num_workers),
            cache_clear_interval=cache_clear_interval,
            log_level=logging.getLogger("virnucpro").getEffectiveLevel(),
        )
        self._settings = [
            replace(common, device=devices[i % len(devices)]) for i in range(num_workers)
        ]

    def create_pool(self) -> None:
        """Start the workers; does nothing when they run already."""
        if self.pool is None:
            self.pool = [self._start(settings) for settings in self._settings]
            logger.info("Started %d workers for model %s", self.num_workers, self.model_type)

    def close(self) -> None:
        """End the workers at once; an idle one has nothing to lose. Safe to call twice."""
        workers, self.pool = self.pool or [], None
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.kill()

    def __enter__(self) -> PersistentWorkerPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def idle(self) -> list[Worker]:
        """Living workers without a job; dead ones are replaced on the way."""
        self.create_pool()
        self.pool = [
            worker if worker.job or worker.process.is_alive() else self._start(worker.settings)
            for worker in self.pool or []
        ]
        return [worker for worker in self.pool if worker.job is None]

    def busy(self) -> list[Worker]:
        """Workers that hold a job."""
        return [worker for worker in self.pool or [] if worker.job is not None]

    def assign(self, worker: Worker, job: FeatureJob) -> None:
        """Hand a job to an idle worker; if the worker just died, `events` will say so."""
        worker.job, worker.last_word = job, time.monotonic()
        with suppress(OSError):
            worker.connection.send(job)

    def events(self, timeout: float) -> Iterator[Event]:
        """What busy workers said within `timeout` seconds; hung ones are killed.

        Yields:
            Worker, the job it holds or held, and the message; a lost worker gives `JobFailed`.
        """
        busy = {worker.connection: (worker, worker.job) for worker in self.busy() if worker.job}
        for connection in wait(list(busy), timeout):
            yield from self._receive(*busy[connection])  # type: ignore[index]
        now = time.monotonic()
        for worker, job in busy.values():
            if worker.job is job and now - worker.last_word > self.worker_timeout:
                yield self._lost(worker, job, f"no sign of life for {self.worker_timeout:g} s")

    def abandon_jobs(self) -> None:
        """Kill workers that hold a job, so that no late answer meets a later caller."""
        for worker in self.busy():
            worker.kill()

    def _receive(self, worker: Worker, job: FeatureJob) -> Iterator[Event]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(STOP_S)
            exit_code = worker.process.exitcode
            yield self._lost(worker, job, f"worker process died (exit code {exit_code})")
            return
        worker.last_word = time.monotonic()
        if isinstance(message, LogLine):
            message.replay()
            return
        if isinstance(message, JobDone | JobFailed):
            worker.job = None
        yield worker, job, message

    def _lost(self, worker: Worker, job: FeatureJob, reason: str) -> Event:
        logger.warning("%s with %s; a new worker takes its place", reason, job.input_file.name)
        worker.kill()
        return worker, job, JobFailed(reason)

    def _start(self, settings: WorkerSettings) -> Worker:
        ctx = multiprocessing.get_context("spawn")
        ours, theirs = ctx.Pipe()
        name = f"virnucpro-{self.model_type}-{settings.device}"
        process = ctx.Process(target=worker_main, args=(theirs, settings), name=name, daemon=True)
        with children_ignore_interrupts():
            process.start()
        theirs.close()
        return Worker(process, ours, settings)
