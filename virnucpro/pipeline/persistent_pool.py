"""Split files through one encoder, in worker processes that may outlive the stage."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from virnucpro.core.device import usable_cpus
from virnucpro.core.progress import ProgressReporter
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.worker_loop import Done, Executor, InProcess
from virnucpro.pipeline.workers import Workers, WorkerSettings

logger = logging.getLogger("virnucpro.pipeline.workers")


class PersistentWorkerPool(Workers):
    """Workers that keep their encoders loaded between stages and between inputs.

    Args:
        num_workers: processes, shared out over the devices in turn.
        model_type: name of the model they serve, for process names and log lines.
        devices: `cpu`, or `cuda:N` for each GPU.
        threads: CPU threads of all workers; None means the usable CPUs.
        cache_clear_interval: units between two clearings of a worker's GPU cache; 0 never.
        worker_timeout: silence after which a busy worker counts as hung (s).

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
        threads: int | None = None,
        cache_clear_interval: int = 10,
        worker_timeout: float = 900.0,
    ) -> None:
        if num_workers < 1 or not devices:
            raise ValueError(f"a pool needs workers and devices, got {num_workers} on {devices}")
        self.num_workers, self.model_type = num_workers, model_type
        settings = [
            WorkerSettings(
                device=devices[number % len(devices)],
                threads=max(1, (threads or usable_cpus()) // num_workers),
                cache_clear_interval=cache_clear_interval,
                log_level=logging.getLogger("virnucpro").getEffectiveLevel(),
            )
            for number in range(num_workers)
        ]
        super().__init__(settings, worker_timeout, f"virnucpro-{model_type}")

    def create_pool(self) -> None:
        """Start the workers; does nothing when they run already."""
        if self.pool is None:
            self.start()
            logger.info("Started %d workers for model %s", self.num_workers, self.model_type)

    def __enter__(self) -> PersistentWorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(slots=True)
class QueueResult:
    """What became of split files.

    Attributes:
        failed: those without an output, each with its reason.
        tokens: tokens embedded.
        engine: what the engine says of itself; empty where nothing was embedded.
    """

    failed: dict[SplitFile, str] = field(default_factory=dict)
    tokens: int = 0
    engine: dict[str, Any] = field(default_factory=dict)


class BatchQueueManager:
    """Hands split files to workers on the devices of this machine.

    On a single CPU the same work is done in this process.

    Args:
        devices: `cpu`, or `cuda:N` for each GPU; one worker each.
        use_persistent_pool: workers that stay, with their encoders, until their owner closes
            them; None starts workers anew in each `process`.
        threads, cache_clear_interval, worker_timeout: as for `PersistentWorkerPool`.
        progress: shows a bar over the ORFs.
    """

    def __init__(
        self,
        devices: Sequence[str] = ("cpu",),
        *,
        use_persistent_pool: PersistentWorkerPool | None = None,
        threads: int | None = None,
        cache_clear_interval: int = 100,
        worker_timeout: float = 900.0,
        progress: ProgressReporter | None = None,
    ) -> None:
        self.devices, self.progress = devices, progress or ProgressReporter(enabled=False)
        self._pool, self._threads = use_persistent_pool, threads or usable_cpus()
        self._interval, self._timeout = cache_clear_interval, worker_timeout

    def process(
        self,
        job: EmbedJob,
        files: Sequence[SplitFile],
        rows: int | None = None,
        on_done: Callable[[SplitFile], object] = lambda file: None,
        desc: str = "Embedding",
    ) -> QueueResult:
        """Embed every file: it is done, or recorded with its reason.

        Args:
            job: the encoder, and how it runs.
            files: units of work.
            rows: sequences of all files, for the progress bar; None if that is not known.
            on_done: called in this process as soon as a file's output is in place.
            desc: title of the progress bar.

        Raises:
            ModelError: the weights are missing or damaged, so that no file could succeed.
            DeviceError: the same for the device.
            OutputError: an output cannot be written.
        """
        result = QueueResult()
        executor = self._pool or self._executor(len(files))
        try:
            with self.progress.create_file_bar(rows, desc, "ORFs") as bar:
                for outcome in executor.run(job, enumerate(files), bar.update):
                    file = files[outcome.key]
                    if isinstance(outcome, Done):
                        result.tokens += outcome.result[1]
                        result.engine = outcome.stats[job.encoder.kind]
                        on_done(file)
                    else:
                        logger.warning("%s: %s", file.input_file, outcome.reason)
                        result.failed[file] = outcome.reason
        finally:
            if self._pool is None:
                executor.close()
        return result

    def _executor(self, files: int) -> Executor:
        if tuple(self.devices) == ("cpu",):
            return InProcess("cpu", self._threads, self._interval)
        return PersistentWorkerPool(
            max(1, min(len(self.devices), files)), "queue", devices=self.devices,
            threads=self._threads, cache_clear_interval=self._interval,
            worker_timeout=self._timeout,
        )  # fmt: skip
