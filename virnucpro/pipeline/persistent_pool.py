"""Worker processes that outlive a stage: started once, encoders kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from virnucpro.core.device import usable_cpus
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
