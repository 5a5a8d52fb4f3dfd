"""What an engine is, and the one place where one is chosen.

Room 5: who batches, on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.records import Tokens
from virnucpro.encoders.base import Encoder

EngineKind = Literal["padded", "packed"]
# Indices of some items, shape (batch,), and their vectors, shape (batch, d) float32.
Embedded = tuple[NDArray[np.int64], NDArray[np.float32]]
DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8": torch.float16,  # of what is not quantised
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
    """How an engine works; decides time and memory, never a score beyond the tolerance.

    Attributes:
        token_budget: token slots of a batch; None means by the device's free memory.
        feeding_threads: threads that lay out batches ahead of the device; 0 means none: each
            batch is made when it is due.
        pin_memory: page-locked batches; None means on CUDA.
        compile: `auto` compiles when the job repays it, `on` always, `off` never.
        expected_tokens: of the whole job, whoever computes them, for that decision.
        float32_encoder: makes the encoder that recomputes a batch with NaN or Inf; None means
            a float32 copy of the encoder.
    """

    token_budget: int | None = None
    feeding_threads: int = 1
    pin_memory: bool | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    expected_tokens: int = 0
    float32_encoder: Callable[[], Encoder] | None = None

    def __post_init__(self) -> None:
        if self.token_budget is not None and self.token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {self.token_budget}")
        if self.feeding_threads < 0:
            raise ValueError(f"feeding_threads must not be negative, got {self.feeding_threads}")
        if self.compile not in ("auto", "on", "off"):
            raise ValueError(f"compile must be auto, on or off, got {self.compile}")


@dataclass(slots=True)
class EngineStats:
    """What an engine did.

    Attributes:
        layout: `padded` or `packed`.
        device: where it ran.
        dtype: numbers it computed with.
        backend: how attention was computed, as the encoder names it.
        token_budget: token slots of a batch, after halving.
        compiled: whether batches of fixed shape went through `torch.compile`.
        sequences: sequences embedded.
        batches: batches computed.
        tokens: real tokens.
        slots: token slots computed, padding included.
        oom_halvings: how often the budget was halved for lack of memory.
        recomputed: batches computed again in float32 because of NaN or Inf.
        seconds: from sequences given to vectors got, all calls together.
        gpu_bytes: most memory that was held on the GPU; 0 without one.
    """

    layout: str
    device: str
    dtype: str
    backend: str
    token_budget: int
    compiled: bool = False
    sequences: int = 0
    batches: int = 0
    tokens: int = 0
    slots: int = 0
    oom_halvings: int = 0
    recomputed: int = 0
    seconds: float = 0.0
    gpu_bytes: int = 0

    @property
    def efficiency(self) -> float:
        """Real tokens over token slots, at most 1."""
        return self.tokens / self.slots if self.slots else 1.0

    def as_dict(self) -> dict[str, Any]:
        """Every field and the efficiency, JSON-able."""
        return {**asdict(self), "efficiency": round(self.efficiency, 5)}


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The numbers to compute with.

    Args:
        name: `auto` (float16 on CUDA, float32 elsewhere) or one of `DTYPES`.
        device: where the encoder will run.

    Raises:
        ValueError: there is no such name.
    """
    if name != "auto" and name not in DTYPES:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {name}")
    if name == "auto":
        name = "float16" if device.type == "cuda" else "float32"
    return DTYPES[name]


def make_engine(
    kind: EngineKind,
    encoder: Encoder,
    *,
    device: torch.device,
    token_budget: int | None = None,
    options: EngineOptions | None = None,
) -> Engine:
    """Choose how batches are laid out; both engines give the same vectors.

    Args:
        kind: `padded` or `packed`.
        encoder: on `device`, in the numbers it is to compute with.
        device: where to compute.
        token_budget: token slots of a batch, in place of the one in `options`.
        options: everything else; None means the defaults.

    Raises:
        ValueError: there is no such kind.
    """
    from virnucpro.engines.plans import PackedPlan, PaddedPlan
    from virnucpro.engines.runner import BatchEngine

    chosen = options or EngineOptions()
    if token_budget is not None:
        chosen = replace(chosen, token_budget=token_budget)
    if kind not in ("padded", "packed"):
        raise ValueError(f"engine must be padded or packed, got {kind}")
    # Without a kernel for packed tokens a batch becomes rectangles of many widths, each too small
    # for a GPU or a compiler: there they are planned as rectangles from the start.
    wants_few = device.type == "cuda" or chosen.compile == "on"
    in_vain = wants_few and getattr(encoder, "backend", None) == "sdpa"
    if kind == "packed" and not in_vain:
        return BatchEngine(encoder, PackedPlan(encoder.pad_id), device, chosen)
    return BatchEngine(encoder, PaddedPlan(encoder.pad_id), device, chosen)
