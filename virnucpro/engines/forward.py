"""One batch through the encoder, how many tokens it may hold, and whether compiling pays.

One layer is compiled and serves all of its kind, in a tenth of the time of a whole network.
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from virnucpro.core.errors import DeviceError
from virnucpro.encoders.attention import TransformerEncoder, pinned_kernels, prove_backend
from virnucpro.encoders.base import Batch, Encoder
from virnucpro.encoders.layouts import Layout, RectangleLayout, TiledLayout
from virnucpro.engines.plans import collate

log = logging.getLogger("virnucpro.engines")

MOST_SHAPES = 6  # the compiler keeps eight versions of one function
LARGEST_BUDGET, SMALLEST_BUDGET = 65_536, 1_024
# A minute of work for an H100 without compiling, at 4e14 operations a second. Compiling takes
# 1 to 4 s a shape beside the compiler's start, and makes the work 1.22 times as fast.
REPAID_FROM_OPERATIONS = 2.5e16
Prepared = Batch | Layout
_PROBE_TOKENS, _PROBE_LENGTH = 4_096, 64
_USABLE = 0.7  # of the free memory: the allocator splits blocks, and other lengths need more


class Forward:
    """Computes batches with an encoder that is on `device`; `packed` ones come end to end."""

    def __init__(self, encoder: Encoder, device: torch.device, packed: bool = False) -> None:
        self.encoder, self.device = encoder.eval(), device
        self._transformer = encoder if isinstance(encoder, TransformerEncoder) else None
        self.backend = "conv" if self._transformer is None else RectangleLayout.backend
        with self._on_device():
            if self._transformer and (packed or self._transformer.backend == TiledLayout.backend):
                self.backend = prove_backend(self._transformer)
        numbers = str(next(encoder.parameters()).dtype).removeprefix("torch.")
        self.numbers = encoder.numbers or numbers
        self._layers = list(getattr(encoder, "layers", [])) or [encoder]
        self._shapes: set[tuple[Any, ...]] = set()
        self.compiles = self._insist = False

    def compile(self, insist: bool) -> None:
        """Compile shapes as they occur; a failing compiler is left out, or an error if `insist`."""
        if self.backend == TiledLayout.backend:
            log.info("torch.compile left out: the Triton kernels are faster, and for any shape")
            return
        self.compiles, self._insist = True, insist
        for layer in self._layers:
            layer.compile(dynamic=False)

    def prepare(self, batch: Batch, pin: bool) -> Prepared:
        """Lay out a batch on the host for the kernels in use; page-locked if `pin`."""
        ready = self._transformer.lay_out(batch) if self._transformer else batch
        return ready.pin_memory() if pin else ready

    def __call__(self, ready: Prepared, fixed: bool) -> Tensor:
        """Vectors of a prepared batch: shape (rows, d), float32, on the device."""
        with torch.inference_mode(), self._on_device(), pinned_kernels():
            moved = ready.to(self.device, non_blocking=True)
            shapes, longest = getattr(moved, "shapes", ()), getattr(moved, "max_length", 0)
            shape = (*moved.tokens.shape, shapes, longest)
            compiles = self.compiles and fixed
            if compiles and shape not in self._shapes and len(self._shapes) < MOST_SHAPES:
                log.info("Compiling for batches of shape %s", shape)
                self._shapes.add(shape)
            if compiles and shape in self._shapes:
                try:
                    return self._compute(moved)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    if self._insist:
                        raise DeviceError(f"torch.compile failed: {error}") from error
                    log.warning("torch.compile failed, going on without it: %s", error)
                    self.compiles = False
            # another engine may have had the layers compiled; asking for the stance takes seconds
            is_plain = getattr(self._layers[0], "_compiled_call_impl", None) is None
            with nullcontext() if is_plain else torch.compiler.set_stance("force_eager"):
                return self._compute(moved)

    def _compute(self, ready: Prepared) -> Tensor:
        if self._transformer is not None and isinstance(ready, Layout):
            return self._transformer.encode(ready)
        vectors: Tensor = self.encoder(ready)
        return vectors

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def probe(forward: Forward) -> tuple[float, int]:
    """Run a small batch on a CUDA device: peak bytes for each token, and bytes that are free."""
    device = forward.device
    letters = np.full(_PROBE_LENGTH, 5, dtype=np.int64)
    ready = forward.prepare(collate([letters] * (_PROBE_TOKENS // _PROBE_LENGTH)), pin=False)
    try:
        forward(ready, fixed=False)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        forward(ready, fixed=False)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device}: no memory for {_PROBE_TOKENS} tokens at once") from error
    peak = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return peak / _PROBE_TOKENS, free


def budget_by_memory(bytes_per_token: float, free_bytes: int) -> int:
    """The largest power of two whose batch fits, the same on like devices, between two limits."""
    fitting = int(_USABLE * free_bytes / max(bytes_per_token, 1.0))
    power = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power, SMALLEST_BUDGET), LARGEST_BUDGET)


def compiling_pays(tokens: int, weights: int) -> bool:
    """Whether a job of so many tokens, on however many devices, repays compiling; logs why.

    Decided from the job alone, never from the clock: compiled numbers differ in the last bits,
    and a job that is stopped and resumed must get the same ones.
    """
    operations = 2.0 * weights * tokens  # a token takes about two for each weight
    pays = operations >= REPAID_FROM_OPERATIONS
    log.info(
        "torch.compile %s: %d tokens are %.1e operations, compiling is repaid from %.1e on",
        "on" if pays else "off", tokens, operations, REPAID_FROM_OPERATIONS,
    )  # fmt: skip
    return pays
