"""One batch through the encoder: prepared on the host, computed on the device.

Room 5. Fixed shapes go through `torch.compile`, everything else through the encoder as it is.
One layer is compiled and serves for all of its kind, which takes a tenth of the time of a whole
network and loses only the fusion across the border of two layers.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from virnucpro.core.errors import DeviceError
from virnucpro.encoders.attention import TransformerEncoder, pinned_kernels, prove_backend
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.batches import Batch
from virnucpro.encoders.layouts import Layout, RectangleLayout, TiledLayout

log = logging.getLogger("virnucpro.engines")

MOST_SHAPES = 6  # the compiler keeps eight versions of one function
Prepared = Batch | Layout


class Forward:
    """Computes batches with one encoder on one device.

    Args:
        encoder: on `device`.
        device: where to compute.
        packed: batches come end to end; else as rectangles.

    Attributes:
        compiles: batches of fixed shape are compiled.

    Raises:
        DeviceError: the attention kernels do not run there, or run wrong.
    """

    def __init__(self, encoder: Encoder, device: torch.device, packed: bool = False) -> None:
        self.encoder, self.device = encoder.eval(), device
        self._transformer = encoder if isinstance(encoder, TransformerEncoder) else None
        self._layers = list(getattr(encoder, "layers", [])) or [encoder]
        self.backend = "conv" if self._transformer is None else RectangleLayout.backend
        with self._on_device():
            if self._transformer and (packed or self._transformer.backend == TiledLayout.backend):
                self.backend = prove_backend(self._transformer)
        self._shapes: set[tuple[Any, ...]] = set()
        self.compiles = self._insist = False

    @property
    def dtype(self) -> torch.dtype:
        """Numbers that the weights are kept in."""
        parameter = next(self.encoder.parameters(), None)
        return torch.float32 if parameter is None else parameter.dtype

    def compile(self, insist: bool) -> None:
        """Compile from now on, when a shape first occurs; our own kernels leave nothing to do.

        Args:
            insist: a failure of the compiler is an error; else go on without it.
        """
        if self.backend == TiledLayout.backend:
            log.info("torch.compile left out: the Triton kernels are faster, and for any shape")
            return
        self.compiles, self._insist = True, insist
        for layer in self._layers:
            layer.compile(dynamic=False)

    def prepare(self, batch: Batch, pin: bool) -> Prepared:
        """Lay out a batch on the host for the kernels in use.

        Args:
            batch: on the host.
            pin: put it in page-locked memory, so that its copy does not wait.
        """
        ready = self._transformer.lay_out(batch) if self._transformer else batch
        return ready.pin_memory() if pin else ready

    def __call__(self, ready: Prepared, fixed: bool) -> Tensor:
        """Vectors of a prepared batch: shape (rows, d), float32, on the device."""
        with torch.inference_mode(), self._on_device(), pinned_kernels():
            moved = ready.to(self.device, non_blocking=True)
            if self.compiles and fixed and self._admit(moved):
                return self._run_compiled(moved)
            return self._run_plain(moved)

    def _compute(self, ready: Prepared) -> Tensor:
        if self._transformer is not None and isinstance(ready, Layout):
            return self._transformer.encode(ready)
        vectors: Tensor = self.encoder(ready)
        return vectors

    def _admit(self, ready: Prepared) -> bool:
        shape = _shape(ready)
        if shape not in self._shapes and len(self._shapes) < MOST_SHAPES:
            log.info("Compiling for batches of shape %s", shape)
            self._shapes.add(shape)
        return shape in self._shapes

    def _run_compiled(self, ready: Prepared) -> Tensor:
        try:
            return self._compute(ready)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if self._insist:
                raise DeviceError(f"torch.compile failed: {error}") from error
            log.warning("torch.compile failed, going on without it: %s", error)
            self.compiles = False
            return self._run_plain(ready)

    def _run_plain(self, ready: Prepared) -> Tensor:
        """Without compiling, also where another engine had the layers compiled."""
        if getattr(self._layers[0], "_compiled_call_impl", None) is None:
            return self._compute(ready)
        with torch.compiler.set_stance("force_eager"):
            return self._compute(ready)

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def _shape(ready: Prepared) -> tuple[Any, ...]:
    fixed = (getattr(ready, "shapes", ()), getattr(ready, "max_length", 0))
    return (*ready.tokens.shape, *fixed)
