"""How to run the packed stages of one prediction: time and memory, never a score."""

from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.pipeline.settings import Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """What the packed stages have of their own; a prediction's `Compute` stands for `compute`."""

    enable_checkpointing: bool = True  # reuse shards of an earlier run; all are durable anyway
    # where shards lie, in a folder named like the stage's; None: `<output_dir>/.checkpoints`
    checkpoint_dir: Path | None = None
    force_restart: bool = False  # recompute damaged shards instead of stopping
    token_budget: int | None = None  # token slots of a batch; None means by free memory
    devices: tuple[str, ...] = ()  # one a rank, as `cuda:2`; empty: visible GPUs, else the CPU
    compute: Compute = field(default_factory=Compute)
