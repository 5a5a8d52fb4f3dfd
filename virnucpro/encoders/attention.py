"""What all transformers share, and which kernels they run on.

`triton` are our own, for sequences end to end (Hopper GPUs, 16-bit); `sdpa` is PyTorch's attention
over rectangles, which runs everywhere.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from virnucpro.core.records import Tokens
from virnucpro.encoders import kernels, plain
from virnucpro.encoders.base import EVEN, Encoder, Layout, Rectangle, Tiled
from virnucpro.encoders.kernels import Sight

log = logging.getLogger("virnucpro.engines")

# whose speed is known for short sequences
_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
_PROOF_LENGTHS = (3, 17, 1, 64, 65, 200)
# Relative norm of whole vectors: five times what rounding alone makes of 36 layers.
_NETWORK_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float32: 1e-4}


def bits_of(constants: list[float]) -> Tensor:
    """Float32 numbers for a buffer, as integers, which `.half()` does not round; on the CPU."""
    return torch.tensor(constants, dtype=torch.float32, device="cpu").view(torch.int32)


class TransformerEncoder(Encoder):
    """A stack of attention layers over the tokens of a layout."""

    embed: nn.Embedding  # one row a token
    heads: int  # attention heads
    skip: ClassVar[int] = 0  # special tokens at each end that do not count in the mean

    @abstractmethod
    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states: shape (T, dim), in the dtype of the weights; waits for no device."""

    @property
    def backend(self) -> str:  # type: ignore[override]
        """Name of the attention kernels."""
        weights, head_dim = self.embed.weight, self.dim // self.heads
        is_ours = kernels.run_on(weights.device, weights.dtype, head_dim)
        return self.forced_backend or (Tiled.backend if is_ours else Rectangle.backend)

    def lay_out(self, items: Sequence[Tokens]) -> Layout:
        """Arrange a batch for the kernels in use, on the CPU."""
        if self.backend == Tiled.backend:
            return Tiled.of(items, self.pad_id)
        return Rectangle.of(items, self.pad_id, -(-max(1, *map(len, items)) // EVEN) * EVEN)

    def sight(self, layout: Layout, turns: Tensor | None, slopes: Tensor | None) -> Sight:
        """Who sees whom in a layout, by rotary angles or by the slopes of ALiBi."""
        if not isinstance(layout, Rectangle):
            return Sight(kernels, layout, self.heads, turns, slopes, None)
        mask = layout.mask(slopes, self.embed.weight.dtype)
        return Sight(plain, layout, self.heads, turns, slopes, mask)

    def encode(self, layout: Layout) -> Tensor:
        """Vectors of a layout on the encoder's device: shape (n, dim), float32."""
        with sdpa_kernel(_KERNELS):
            return layout.mean(self.hidden(layout), self.skip)

    def prove(self) -> None:
        """Let our kernels give way to the plain path unless they give its vectors here."""
        if self.backend != Tiled.backend or self.forced_backend is not None:
            return
        numbers, known = np.random.default_rng(0), min(24, self.embed.num_embeddings)
        items = [numbers.integers(4, known, length) for length in _PROOF_LENGTHS]
        with torch.inference_mode():
            layout = Rectangle.of(items, self.pad_id, max(_PROOF_LENGTHS))
            wanted = self.encode(layout.to(self.device)).cpu()
            try:
                off = float((self(items).cpu() - wanted).norm() / wanted.norm())
                problem = f"are off by {off:.2g} here"
                if off < _NETWORK_TOLERANCES[self.embed.weight.dtype]:
                    return
            except Exception as error:  # noqa: BLE001 - a compiler of kernels may raise anything
                text = str(error).strip()[-200:]
                problem = f"do not run here ({type(error).__name__}: {text})"
        self.forced_backend = Rectangle.backend
        log.warning("Triton kernels %s; '%s' is used instead", problem, self.forced_backend)
