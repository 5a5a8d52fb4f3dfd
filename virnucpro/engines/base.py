"""What an engine is, and the one place where one is chosen.

Room 5: who batches, on one device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.records import Tokens
from virnucpro.encoders.base import Encoder
from virnucpro.engines.plans import Lengths

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


class BatchLayout(Protocol):
    """How sequences are put into batches; see `padded` and `packed`.

    Attributes:
        name: `padded` or `packed`.
    """

    name: str

    def plan(self, lengths: Lengths, budget: int) -> list[NDArray[np.int64]]:
        """Indices of each batch; every index appears exactly once."""

    def slots(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token slots that each sequence takes, shape (n,)."""

    def collate(self, items: Sequence[Tokens]) -> Any:
        """Lay out a batch on the host."""

    def fixed(self, batch: Any, budget: int) -> Any | None:
        """The same batch in one of few shapes; None where it is better left as it is."""


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
        longest: tokens of the longest sequence it will see, so that compiling can be done
            before the first batch; 0 if that is not known.
        float32_encoder: makes the encoder that recomputes a batch with NaN or Inf; None means
            a float32 copy of the encoder.
    """

    token_budget: int | None = None
    feeding_threads: int = 1
    pin_memory: bool | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    expected_tokens: int = 0
    longest: int = 0
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
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "efficiency": round(self.efficiency, 5)}


def choose_dtype(name: str, device: torch.device, disable_fp16: bool = False) -> torch.dtype:
    """The numbers to compute with.

    Args:
        name: `auto` (float16 on CUDA, float32 elsewhere) or one of `DTYPES`.
        device: where the encoder will run.
        disable_fp16: use float32 where float16 would be chosen or was asked for.

    Raises:
        ValueError: there is no such name.
    """
    if name != "auto" and name not in DTYPES:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {name}")
    chosen = DTYPES["float16" if device.type == "cuda" else "float32"]
    chosen = chosen if name == "auto" else DTYPES[name]
    return torch.float32 if disable_fp16 and chosen is torch.float16 else chosen


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
    from virnucpro.engines.packed import PackedPlan
    from virnucpro.engines.padded import PaddedPlan
    from virnucpro.engines.runner import BatchEngine

    chosen = options or EngineOptions()
    if token_budget is not None:
        chosen = replace(chosen, token_budget=token_budget)
    if kind not in ("padded", "packed"):
        raise ValueError(f"engine must be padded or packed, got {kind}")
    if kind == "packed" and not _only_rectangles(encoder, device, chosen):
        return BatchEngine(encoder, PackedPlan(encoder.pad_id, chosen.longest), device, chosen)
    return BatchEngine(encoder, PaddedPlan(encoder.pad_id), device, chosen)


def _only_rectangles(encoder: Encoder, device: torch.device, options: EngineOptions) -> bool:
    """Whether packed batches of this encoder would become rectangles of many shapes.

    They do where its attention has no kernel for packed tokens. A GPU and a compiler want few
    shapes, so there batches are planned as rectangles from the start.
    """
    wants_few = device.type == "cuda" or options.compile == "on"
    return wants_few and getattr(encoder, "backend", None) == "sdpa"
