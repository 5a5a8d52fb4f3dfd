"""One batch through the encoder, and how many tokens a batch may hold, by trying a small one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from virnucpro.core.errors import DeviceError
from virnucpro.core.records import Tokens
from virnucpro.encoders.attention import TransformerEncoder, pinned_kernels, prove_backend
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.batches import Batch
from virnucpro.encoders.layouts import Layout, RectangleLayout, TiledLayout

LARGEST_BUDGET, SMALLEST_BUDGET = 65_536, 1_024
Prepared = Batch | Layout
_PROBE_TOKENS, _PROBE_LENGTH = 4_096, 64
_USABLE = 0.7  # of the free memory: the allocator splits blocks, and other lengths need more


class Forward:
    """Computes batches with one encoder on one device.

    Args:
        encoder: on `device`.
        device: where to compute.
        packed: batches come end to end; else as rectangles.

    Raises:
        DeviceError: the attention kernels do not run there, or run wrong.
    """

    def __init__(self, encoder: Encoder, device: torch.device, packed: bool = False) -> None:
        self.encoder, self.device = encoder.eval(), device
        self._transformer = encoder if isinstance(encoder, TransformerEncoder) else None
        self.backend = "conv" if self._transformer is None else RectangleLayout.backend
        with self._on_device():
            if self._transformer and (packed or self._transformer.backend == TiledLayout.backend):
                self.backend = prove_backend(self._transformer)
        numbers = str(next(encoder.parameters()).dtype).removeprefix("torch.")
        self.numbers = encoder.numbers or numbers

    def prepare(self, batch: Batch, pin: bool) -> Prepared:
        """Lay out a batch on the host for the kernels in use; page-locked if `pin`."""
        ready = self._transformer.lay_out(batch) if self._transformer else batch
        return ready.pin_memory() if pin else ready

    def __call__(self, ready: Prepared) -> Tensor:
        """Vectors of a prepared batch: shape (rows, d), float32, on the device."""
        with torch.inference_mode(), self._on_device(), pinned_kernels():
            moved = ready.to(self.device, non_blocking=True)
            if self._transformer is not None and isinstance(moved, Layout):
                return self._transformer.encode(moved)
            vectors: Tensor = self.encoder(moved)
            return vectors

    def _on_device(self) -> AbstractContextManager[object]:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()


def probe(forward: Forward, collate: Callable[[Sequence[Tokens]], Batch]) -> tuple[float, int]:
    """Run a small batch on a CUDA device and see what it takes.

    Returns:
        Memory in use at the peak, above weights and batch, for each token; memory that nobody
        uses (bytes).

    Raises:
        DeviceError: not even that fits.
    """
    device = forward.device
    letters = np.full(_PROBE_LENGTH, 5, dtype=np.int64)
    ready = forward.prepare(collate([letters] * (_PROBE_TOKENS // _PROBE_LENGTH)), pin=False)
    try:
        forward(ready)
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        forward(ready)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device}: no memory for {_PROBE_TOKENS} tokens at once") from error
    peak = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return peak / _PROBE_TOKENS, free


def budget_by_memory(bytes_per_token: float, free_bytes: int) -> int:
    """The largest power of two whose batch fits into free memory, between the two limits.

    A power of two, so that runs on like devices lay out like batches.
    """
    fitting = int(_USABLE * free_bytes / max(bytes_per_token, 1.0))
    power = 1 << max(fitting.bit_length() - 1, 0)
    return min(max(power, SMALLEST_BUDGET), LARGEST_BUDGET)
