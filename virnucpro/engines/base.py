"""What an engine is, who batches on one device, and the one place where one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.records import Tokens

if TYPE_CHECKING:
    import torch

    from virnucpro.encoders.base import Encoder

EngineKind = Literal["padded", "packed"]
# Indices of some items, shape (batch,), and their vectors, shape (batch, d) float32.
Embedded = tuple[NDArray[np.int64], NDArray[np.float32]]
DTYPES = {  # names in torch
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "fp8": "float16",  # of what is not quantised
}


class Engine(Protocol):
    """Turns token sequences into one vector each on one device; knows no files, no ranks."""

    @property
    def stats(self) -> EngineStats:
        """What was done so far."""

    def embed(self, items: Sequence[Tokens]) -> Iterator[Embedded]:
        """Yield the vectors of batch after batch, in any order, each item exactly once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine works; decides time and memory, never a score beyond the tolerance."""

    token_budget: int | None = None  # token slots of a batch; None means by free memory
    feeding_threads: int = 1  # lay out batches ahead of the device; 0: each when it is due
    pin_memory: bool | None = None  # page-locked batches; None means on CUDA
    compile: Literal["auto", "on", "off"] = "auto"  # auto: when the job repays it
    expected_tokens: int = 0  # of the whole job, whoever computes them, for that decision

    def __post_init__(self) -> None:
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {self.token_budget}")
        if self.feeding_threads < 0:
            raise ValueError(f"feeding_threads must not be negative, got {self.feeding_threads}")
        if self.compile not in ("auto", "on", "off"):
            raise ValueError(f"compile must be auto, on or off, got {self.compile}")


@dataclass(slots=True)
class EngineStats:
    """What an engine did."""

    layout: str  # padded or packed
    device: str
    dtype: str  # numbers it computed with
    backend: str  # how attention was computed, as the encoder names it
    token_budget: int  # token slots of a batch, after halving
    compiled: bool = False  # batches of fixed shape went through torch.compile
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

    def as_dict(self) -> dict[str, Any]:
        """Every field and the efficiency, JSON-able."""
        return {**asdict(self), "efficiency": round(self.efficiency, 5)}


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """One of `DTYPES` by its name; `auto` is float16 on CUDA and float32 elsewhere."""
    if name != "auto" and name not in DTYPES:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {name}")
    import torch

    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"
    chosen: torch.dtype = getattr(torch, DTYPES[name])
    return chosen


def make_engine(
    kind: EngineKind, encoder: Encoder, *, device: torch.device,
    options: EngineOptions | None = None, float32_encoder: Callable[[], Encoder] | None = None,
) -> Engine:  # fmt: skip
    """An engine for an encoder on `device`; both kinds of layout give the same vectors.

    `float32_encoder` makes what recomputes a batch with NaN or Inf; by default a copy.
    """
    from virnucpro.engines.plans import PackedPlan, PaddedPlan
    from virnucpro.engines.runner import BatchEngine

    chosen = options or EngineOptions()
    if kind not in ("padded", "packed"):
        raise ValueError(f"engine must be padded or packed, got {kind}")
    # Without a kernel for packed tokens a batch becomes rectangles of many widths, each too small
    # for a GPU or a compiler: there they are planned as rectangles from the start.
    wants_few = device.type == "cuda" or chosen.compile == "on"
    in_vain = wants_few and getattr(encoder, "backend", None) == "sdpa"
    plan = PackedPlan if kind == "packed" and not in_vain else PaddedPlan
    return BatchEngine(encoder, plan(encoder.pad_id), device, chosen, float32_encoder)
