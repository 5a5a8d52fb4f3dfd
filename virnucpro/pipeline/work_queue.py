"""Split files through one encoder: every file is done, or recorded with its reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from virnucpro.core.device import usable_cpus
from virnucpro.core.progress import ProgressReporter
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
from virnucpro.pipeline.worker_loop import Done, Executor, InProcess

logger = logging.getLogger("virnucpro.pipeline.queue")


@dataclass(frozen=True, slots=True)
class QueueResult:
    """What became of the files.

    Attributes:
        finished: units whose output is in place, in their order.
        failed: the others, each with its reason.
        tokens: tokens embedded.
        engine: what the engine says of itself; empty where nothing was embedded.
    """

    finished: tuple[SplitFile, ...]
    failed: tuple[tuple[SplitFile, str], ...]
    tokens: int = 0
    engine: dict[str, Any] = field(default_factory=dict)


class BatchQueueManager:
    """Hands split files to workers on the devices of this machine.

    With one CPU and no workers asked for, the same work is done in this process.

    Args:
        devices: `cpu`, or `cuda:N` for each GPU.
        num_workers: processes; None means one a device, and none for a single CPU.
        use_persistent_pool: workers that stay, with their encoders, until their owner closes
            them; None starts workers anew in each `process`.
        threads: CPU threads of all workers; None means the usable CPUs.
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
        threads: int | None = None,
        cache_clear_interval: int = 100,
        worker_timeout: float = 900.0,
        progress: ProgressReporter | None = None,
    ) -> None:
        self.devices, self.num_workers = tuple(devices), num_workers
        self.progress = progress or ProgressReporter(enabled=False)
        self._pool, self._threads = use_persistent_pool, threads
        self._interval, self._timeout = cache_clear_interval, worker_timeout

    def process(
        self,
        job: EmbedJob,
        files: Sequence[SplitFile],
        rows: int | None = None,
        on_done: Callable[[SplitFile], object] = lambda file: None,
        desc: str = "Embedding",
    ) -> QueueResult:
        """Embed every file.

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
        failed: dict[int, str] = {}
        tokens = 0
        engine: dict[str, Any] = {}
        executor = self._pool or self._executor(len(files))
        try:
            with self.progress.create_file_bar(rows, desc, "ORFs") as bar:
                for outcome in executor.run(job, enumerate(files), bar.update):
                    file = files[outcome.key]
                    if isinstance(outcome, Done):
                        tokens += outcome.result[1]
                        engine = outcome.stats[job.encoder.kind]
                        on_done(file)
                    else:
                        logger.warning("%s: %s", file.input_file, outcome.reason)
                        failed[outcome.key] = outcome.reason
        finally:
            if self._pool is None:
                executor.close()
        return QueueResult(
            tuple(file for key, file in enumerate(files) if key not in failed),
            tuple((files[key], reason) for key, reason in sorted(failed.items())),
            tokens,
            engine,
        )

    def _executor(self, files: int) -> Executor:
        threads = self._threads or usable_cpus()
        if not self.num_workers and self.devices == ("cpu",):
            return InProcess("cpu", threads, self._interval)
        workers = max(1, min(self.num_workers or len(self.devices), files))
        return PersistentWorkerPool(
            workers, "queue", devices=self.devices, threads=threads,
            cache_clear_interval=self._interval, worker_timeout=self._timeout,
        )  # fmt: skip
