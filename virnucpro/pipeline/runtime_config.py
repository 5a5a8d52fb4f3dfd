"""How to run the packed stages of one prediction: time and memory, never a score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from virnucpro.core.config import DTYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How to run one prediction.

    Attributes:
        enable_checkpointing: reuse finished shards of an earlier run; shards are committed
            durably in any case.
        checkpoint_dir: where shards lie, in a folder named like the stage's output folder;
            None means `<output_dir>/.checkpoints`.
        force_restart: recompute damaged shards instead of stopping.
        worker_timeout: silence after which a worker counts as lost (s).
        dataloader_workers: threads of a rank that tokenise side by side; 0 means one, and no
            batch laid out before it is due; None means one.
        pin_memory: page-locked batches; None means on CUDA.
        token_budget: token slots of a batch; None means by free memory.
        dtype: `auto` (float16 on CUDA, float32 elsewhere), `float32`, `float16`, `bfloat16`.
        disable_fp16: float32 wherever float16 would be used.
        disable_packing: padded batches in place of packed ones.
        v1_attention: plain attention kernels in place of the packed ones.
        threads: CPU threads of all ranks together; None means the usable CPUs.
        devices: one per rank, such as `cuda:2`; empty means the visible GPUs, else the CPU.

    Raises:
        ValueError: a value is out of its range, or a GPU is named twice.
    """

    enable_checkpointing: bool = True
    checkpoint_dir: Path | None = None
    force_restart: bool = False
    worker_timeout: float = 900.0
    dataloader_workers: int | None = None
    pin_memory: bool | None = None
    token_budget: int | None = None
    dtype: str = "auto"
    disable_fp16: bool = False
    disable_packing: bool = False
    v1_attention: bool = False
    threads: int | None = None
    devices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.worker_timeout <= 0:
            raise ValueError(f"worker_timeout must be positive, got {self.worker_timeout} s")
        for name, least in (("dataloader_workers", 0), ("threads", 1), ("token_budget", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}")
        gpus = [name for name in self.devices if name != "cpu"]
        if len(set(gpus)) != len(gpus):
            raise ValueError(f"a GPU takes one rank, got devices {self.devices}")
