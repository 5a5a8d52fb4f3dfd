"""Split files through one encoder, in worker processes that may outlive the stage."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from virnucpro.core.device import usable_cpus
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.settings import Compute
from virnucpro.pipeline.worker_loop import Executor, Failed, InProcess, OnRows, Outcome
from virnucpro.pipeline.workers import Workers, WorkerSettings

logger = logging.getLogger("virnucpro.pipeline.workers")

ON_CPU = Compute(device="cpu")


class PersistentWorkerPool(Workers):
    """Workers that share devices and threads of `compute`, keep encoders, and log into `logs`."""

    def __init__(
        self, num_workers: int, model_type: str, compute: Compute = ON_CPU, logs: Path | None = None
    ) -> None:
        self.model_type, devices = model_type, compute.devices
        settings = [
            WorkerSettings(
                device=devices[number % len(devices)],
                threads=max(1, (compute.threads or usable_cpus()) // num_workers),
                cache_clear_interval=compute.cache_clear_interval,
                log_level=logging.getLogger("virnucpro").getEffectiveLevel(),
                log_file=logs / f"worker_{number}.log" if logs else None,
            )
            for number in range(num_workers)
        ]
        super().__init__(settings, compute.worker_timeout, f"virnucpro-{model_type}")

    def create_pool(self) -> None:
        """Start the workers; does nothing when they run already."""
        if self.pool is None:
            workers = len(self.start())
            logger.info("Started %d workers for model %s", workers, self.model_type)


class BatchQueueManager:
    """Hands split files to a pool that stays, or to an executor that ends with each `process`."""

    def __init__(
        self, executor: Executor | None = None, use_persistent_pool: Workers | None = None
    ) -> None:
        self._pool, self._executor = use_persistent_pool, executor or InProcess("cpu")

    def process(
        self, job: EmbedJob, files: Sequence[SplitFile], on_rows: OnRows = lambda rows: None
    ) -> Iterator[tuple[SplitFile, Outcome]]:
        """Embed every file; each comes with what became of it. Errors as for `Executor.run`."""
        executor = self._pool or self._executor
        try:
            for outcome in executor.run(job, enumerate(files), on_rows):
                file = files[outcome.key]
                if isinstance(outcome, Failed):
                    logger.warning("%s: %s", file.input_file, outcome.reason)
                yield file, outcome
        finally:
            if self._pool is None:
                executor.close()
