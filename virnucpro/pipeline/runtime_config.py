"""How to run the packed stages of one prediction: time and memory, never a score."""

from dataclasses import dataclass
from pathlib import Path

from virnucpro.core.config import DTYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """How to run one prediction; a ValueError where a value is out of its range."""

    enable_checkpointing: bool = True  # reuse shards of an earlier run; all are durable anyway
    # where shards lie, in a folder named like the stage's; None: `<output_dir>/.checkpoints`
    checkpoint_dir: Path | None = None
    force_restart: bool = False  # recompute damaged shards instead of stopping
    worker_timeout: float = 900.0  # silence after which a worker counts as lost (s)
    # threads of a rank that tokenise; 0: one, and no batch laid out before it is due; None: one
    dataloader_workers: int | None = None
    pin_memory: bool | None = None  # page-locked batches; None means on CUDA
    token_budget: int | None = None  # token slots of a batch; None means by free memory
    dtype: str = "auto"  # float16 on CUDA, float32 elsewhere; or float32, float16, bfloat16
    disable_fp16: bool = False  # float32 wherever float16 would be used
    disable_packing: bool = False  # padded batches in place of packed ones
    v1_attention: bool = False  # plain attention kernels in place of the packed ones
    threads: int | None = None  # of all ranks together; None means the usable CPUs
    devices: tuple[str, ...] = ()  # one a rank, as `cuda:2`; empty: visible GPUs, else the CPU

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
