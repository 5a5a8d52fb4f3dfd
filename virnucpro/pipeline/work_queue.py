"""Split files as jobs for worker processes: every file is done, or recorded with its reason."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from virnucpro.core.progress import ProgressReporter
from virnucpro.core.text import one_line
from virnucpro.pipeline.embedding_worker import LoadedEncoders, run_job
from virnucpro.pipeline.failed_files import replace_lines
from virnucpro.pipeline.jobs import FeatureJob, Heartbeat, JobDone, JobFailed, WorkerSettings
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool

logger = logging.getLogger("virnucpro.pipeline.queue")

POLL_S = 1.0

_Note = Callable[[FeatureJob, Heartbeat | JobDone | JobFailed], None]
_Run = Callable[[Sequence[FeatureJob], _Note], None]


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A split file that could not be embedded, twice."""

    job: FeatureJob
    reason: str


@dataclass(frozen=True, slots=True)
class QueueResult:
    """What became of the jobs, in job order.

    Attributes:
        finished: output files.
        failed: the others, each with its reason.
        tokens: tokens embedded.
        engine: how: layout, device, dtype, and attention backend; empty without jobs.
    """

    finished: tuple[Path, ...]
    failed: tuple[FailedFile, ...]
    tokens: int = 0
    engine: dict[str, str] = field(default_factory=dict)


class BatchQueueManager:
    """Hands split files to workers on the devices of this machine.

    A file whose worker fails, is killed or hangs is tried once more, alone. With one CPU and
    no workers asked for, the same work is done in this process.

    Args:
        devices: `cpu`, or `cuda:N` for each GPU.
        num_workers: processes; None means one a device, and none for a single CPU.
        use_persistent_pool: workers that stay, with their encoders, until their owner closes
            them; None starts workers anew in each `process`.
        cache_clear_interval: files between two clearings of the GPU cache; 0 never.
        worker_timeout: silence after which a busy worker counts as hung (s).
        progress: shows a bar over the ORFs.
    """

    def __init__(
        self,
        devices: Sequence[str] = ("cpu",),
        num_workers: int | None = None,
        *,
        use_persistent_pool: PersistentWorkerPool | None = None,
        cache_clear_interval: int = 100,
        worker_timeout: float = 900.0,
        progress: ProgressReporter | None = None,
    ) -> None:
        self.devices, self.num_workers = tuple(devices), num_workers
        self.progress = progress or ProgressReporter(enabled=False)
        self._pool = use_persistent_pool
        self._interval, self._timeout = cache_clear_interval, worker_timeout

    @property
    def works_here(self) -> bool:
        """Whether jobs run in this process."""
        return self._pool is None and not self.num_workers and self.devices == ("cpu",)

    def process(
        self,
        jobs: Sequence[FeatureJob],
        failed_log: Path | None = None,
        on_done: Callable[[FeatureJob], object] = lambda job: None,
        desc: str = "Embedding",
    ) -> QueueResult:
        """Embed every file.

        Args:
            jobs: one a split file.
            failed_log: `failed_files.txt`; its lines about these files are replaced.
            on_done: called in this process as soon as a job's output is in place.
            desc: title of the progress bar.

        Raises:
            ModelError: the weights are missing or damaged, so that no file could succeed.
            DeviceError: the same for the device.
        """
        failed: dict[FeatureJob, str] = {}
        tokens = 0
        engine: dict[str, str] = {}
        with self.progress.create_file_bar(sum(job.rows for job in jobs), desc, "ORFs") as bar:
            shown: Counter[FeatureJob] = Counter()  # ORFs of each file that the bar has counted

            def note(job: FeatureJob, outcome: Heartbeat | JobDone | JobFailed) -> None:
                nonlocal tokens, engine
                if isinstance(outcome, Heartbeat):
                    shown[job] += outcome.rows
                    bar.update(outcome.rows)
                elif isinstance(outcome, JobDone):
                    failed.pop(job, None)
                    tokens, engine = tokens + outcome.tokens, dict(outcome.engine)
                    on_done(job)
                    bar.update(job.rows - shown.pop(job, 0))
                elif outcome.cause is not None:
                    raise outcome.cause
                else:
                    logger.warning("%s: %s", job.input_file, outcome.reason)
                    failed[job] = outcome.reason
                    bar.update(-shown.pop(job, 0), failed=len(failed))

            with self._runner(len(jobs)) as run:
                run(jobs, note)
                for job in list(failed):
                    logger.info("Trying %s again, alone", job.input_file.name)
                    run([job], note)
        if failed_log is not None:
            _record_failures(failed_log, jobs, failed)
        return QueueResult(
            tuple(job.output_file for job in jobs if job not in failed),
            tuple(FailedFile(job, failed[job]) for job in jobs if job in failed),
            tokens,
            engine,
        )

    @contextmanager
    def _runner(self, jobs: int) -> Iterator[_Run]:
        if self._pool is not None:
            yield partial(_run_in, self._pool)
        elif self.works_here:
            yield partial(_run_here, LoadedEncoders(WorkerSettings()))
        else:
            workers = max(1, min(self.num_workers or len(self.devices), jobs))
            with PersistentWorkerPool(
                workers, "queue", devices=self.devices, cache_clear_interval=self._interval,
                worker_timeout=self._timeout,
            ) as pool:  # fmt: skip
                yield partial(_run_in, pool)


def _run_here(encoders: LoadedEncoders, jobs: Sequence[FeatureJob], note: _Note) -> None:
    for job in jobs:
        note(job, run_job(job, encoders, partial(_beat, note, job)))


def _beat(note: _Note, job: FeatureJob, rows: int) -> None:
    note(job, Heartbeat(rows))


def _run_in(pool: PersistentWorkerPool, jobs: Sequence[FeatureJob], note: _Note) -> None:
    waiting = deque(jobs)
    try:
        while waiting or pool.busy():
            for worker in pool.idle() if waiting else ():
                if waiting:
                    pool.assign(worker, waiting.popleft())
            for _, job, message in pool.events(POLL_S):
                note(job, message)
    except BaseException:
        pool.abandon_jobs()
        raise


def _record_failures(
    failed_log: Path, jobs: Sequence[FeatureJob], failed: Mapping[FeatureJob, str]
) -> None:
    ours = {str(job.input_file) for job in jobs}
    replace_lines(
        failed_log,
        lambda line: line.split("|", 1)[0] in ours,
        [f"{job.input_file}|{job.label}|{one_line(reason)}" for job, reason in failed.items()],
    )
