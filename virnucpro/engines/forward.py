"""One batch through the encoder: prepared on the host, computed on the device.

Room 5. Fixed shapes go through `torch.compile`, everything else through the encoder as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from virnucpro.batches.collate import Batch, PackedBatch, PaddedBatch
from virnucpro.core.errors import DeviceError
from virnucpro.models.attention import TransformerEncoder, pinned_kernels, prove_backend
from virnucpro.models.base import Encoder
from virnucpro.models.layouts import Layout

log = logging.getLogger("virnucpro.engines")

MOST_SHAPES = 8  # the compiler keeps that many versions of one function
Prepared = Batch | Layout


class Forward:
    """Computes batches with one encoder on one device.

    Args:
        encoder: on `device`.
        device: where to compute.

    Raises:
        DeviceError: the attention kernels do not run there, or run wrong.
    """

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self.encoder, self.device = encoder.eval(), device
        self._layers = encoder if isinstance(encoder, TransformerEncoder) else None
        with self._on_device():
            self.backend = prove_backend(self._layers) if self._layers is not None else "conv"
        self._compiled: Callable[[Any], Tensor] | None = None
        self._shapes: set[tuple[Any, ...]] = set()
        self._insist = False

    @property
    def dtype(self) -> torch.dtype:
        """Numbers that the weights are kept in."""
        parameter = next(self.encoder.parameters(), None)
        return torch.float32 if parameter is None else parameter.dtype

    @property
    def compiles(self) -> bool:
        """Whether batches of fixed shape are compiled."""
        return self._compiled is not None

    def compile(self, insist: bool) -> None:
        """Compile for every fixed shape from now on, when it first occurs.

        Args:
            insist: a failure of the compiler is an error; else go on without it.
        """
        self._insist = insist
        self._compiled = torch.compile(self._compute, dynamic=False)

    def prepare(self, batch: Batch, pin: bool, fixed: bool) -> Prepared:
        """Lay out a batch on the host for the kernels in use.

        Args:
            batch: on the host; with fixed shapes it has more rows than ids.
            pin: put it in page-locked memory, so that its copy does not wait.
            fixed: leave out the ids, which would differ from batch to batch.
        """
        shaped = _without_ids(batch) if fixed else batch
        ready = self._layers.lay_out(shaped) if self._layers is not None else shaped
        return ready.pin_memory() if pin else ready

    def __call__(self, ready: Prepared, fixed: bool) -> Tensor:
        """Vectors of a prepared batch: shape (rows, d), float32, on the device."""
        with torch.inference_mode(), self._on_device(), pinned_kernels():
            moved = ready.to(self.device, non_blocking=True)
            if fixed and self._compiled is not None and self._admit(moved):
                return self._run_compiled(moved)
            return self._compute(moved)

    def _compute(self, ready: Prepared) -> Tensor:
        if self._layers is not None and isinstance(ready, Layout):
            return self._layers.encode(ready)
        vectors: Tensor = self.encoder(ready)
        return vectors

    def _admit(self, ready: Prepared) -> bool:
        shape = _shape(ready)
        if shape not in self._shapes and len(self._shapes) < MOST_SHAPES:
            log.info("Compiling for batches of shape %s", shape)
            self._shapes.add(shape)
        return shape in self._shapes

    def _run_compiled(self, ready: Prepared) -> Tensor:
        assert self._compiled is not None
        try:
            return self._compiled(ready)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._insist:
                raise DeviceError(f"torch.compile failed: {error}; use --compile off") from error
            log.warning("torch.compile failed, going on without it: %s", error)
            self._compiled = None
            return self._compute(ready)

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def _without_ids(batch: Batch) -> Batch:
    if isinstance(batch, PackedBatch):
        blank = ("",) * (len(batch.cu_seqlens) - 1)
        return PackedBatch(blank, batch.tokens, batch.cu_seqlens, batch.max_length)
    return PaddedBatch(("",) * len(batch.tokens), batch.tokens, batch.lengths)


def _shape(ready: Prepared) -> tuple[Any, ...]:
    fixed = (getattr(ready, "shapes", ()), getattr(ready, "max_length", 0))
    return (*ready.tokens.shape, *fixed)
