"""Split files through one encoder, in worker processes that may outlive the stage."""

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

    `num_workers` processes for the model called `model_type` share out the devices in turn, and the
    `threads`, by default the usable CPUs; see `WorkerSettings`, `Workers`.
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

    def __enter__(self) -> "PersistentWorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@dataclass(slots=True)
class QueueResult:
    """What became of split files; `engine` is what the engine says of itself."""

    failed: dict[SplitFile, str] = field(default_factory=dict)
    tokens: int = 0
    engine: dict[str, Any] = field(default_factory=dict)


class BatchQueueManager:
    """Hands split files to an executor, by default this process, that ends with each `process`.

    `use_persistent_pool` takes its place, and stays until its owner closes it.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        use_persistent_pool: PersistentWorkerPool | None = None,
        progress: ProgressReporter | None = None,
    ) -> None:
        self._pool, self._executor = use_persistent_pool, executor or InProcess("cpu")
        self.progress = progress or ProgressReporter(enabled=False)

    def process(
        self,
        job: EmbedJob,
        files: Sequence[SplitFile],
        rows: int | None = None,
        on_done: Callable[[SplitFile], object] = lambda file: None,
        desc: str = "Embedding",
    ) -> QueueResult:
        """Embed every file: it is done, which `on_done` is told, or recorded with its reason.

        A bar with the title `desc` counts to `rows` sequences. Errors as for `Executor.run`.
        """
        result = QueueResult()
        executor = self._pool or self._executor
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
