"""What an engine is asked for and what it tells of its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

EngineKind = Literal["padded", "packed"]
# Indices of some items, shape (batch,), and their vectors, shape (batch, d) float32.
Embedded = tuple[NDArray[np.int64], NDArray[np.float32]]
# names in torch; of fp8, for what is not quantised
DTYPES = {n: n for n in ("float32", "float16", "bfloat16")} | {"fp8": "float16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an encoder runs; decides time and memory, never a score beyond the tolerance."""

    engine: EngineKind | None = None  # None means packed on a GPU
    # float16 on CUDA, float32 elsewhere; or float32, float16, bfloat16; or fp8: ESM-2 in float8
    # where it runs, all else in float16
    dtype: str = "auto"
    tokenizer_threads: int | None = None  # side by side; None means all for a GPU, else one
    plain_attention: bool = False  # plain kernels in place of the packed ones
    token_budget: int | None = None  # token slots of a batch; None means by free memory
    feeding_threads: int = 1  # lay out batches ahead of the device; 0: each when it is due
    pin_memory: bool | None = None  # page-locked batches; None means on CUDA


@dataclass(slots=True)
class EngineStats:
    """What an engine did."""

    layout: str  # padded or packed
    device: str
    dtype: str  # numbers it computed with
    backend: str  # how attention was computed, as the encoder names it
    token_budget: int  # token slots of a batch, after halving
    sequences: int = 0
    batches: int = 0
    tokens: int = 0  # real ones
    slots: int = 0  # for tokens, padding included
    oom_halvings: int = 0  # of the budget, for lack of memory
    recomputed: int = 0  # batches computed again in float32 because of NaN or Inf
    seconds: float = 0.0  # from sequences given to vectors got, all calls together
    gpu_bytes: int = 0  # most memory that was held on the GPU

    @property
    def efficiency(self) -> float:
        """Real tokens over token slots, at most 1."""
        return self.tokens / self.slots if self.slots else 1.0

    def count(self, lengths: Sequence[int], slots: int) -> None:
        """Add a batch of sequences of so many tokens."""
        self.sequences += len(lengths)
        self.batches += 1
        self.tokens += sum(lengths)
        self.slots += slots

    def as_dict(self) -> dict[str, Any]:
        """Every field and the efficiency, JSON-able."""
        return {**asdict(self), "efficiency": round(self.efficiency, 5)}


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """One of `DTYPES` by its name; `auto` is float16 on CUDA and float32 elsewhere."""
    import torch

    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"
    chosen: torch.dtype = getattr(torch, DTYPES[name])
    return chosen
