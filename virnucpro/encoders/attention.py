"""Which attention kernels run, and what all transformers share.

Kernels are named: `triton` are our own, for packed tokens (Hopper GPUs, 16-bit), `varlen` is
PyTorch's for them (CUDA, 16-bit), `sdpa` reads rectangles and runs everywhere.
"""

import logging
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from virnucpro.core.errors import DeviceError
from virnucpro.encoders.base import Batch, Encoder, Layout, Rectangle, Tiled, bucket_width
from virnucpro.encoders.kernels import run_on

log = logging.getLogger("virnucpro.engines")

# whose speed is known for short sequences
_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
_PROOF_LENGTHS = (3, 17, 1, 64, 65, 200)
# Relative norm of whole vectors: five times what rounding alone makes of 36 layers.
_NETWORK_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float32: 1e-4}


def choose_backend(
    device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool, ours: bool = True
) -> str:
    """Kernels for packed tokens: `triton`, `varlen` (which knows no ALiBi), else `sdpa`."""
    if ours and run_on(device, dtype, head_dim):
        return Tiled.backend
    fits = dtype in (torch.float16, torch.bfloat16) and head_dim % 8 == 0 and head_dim <= 256
    if alibi or not fits or device.type != "cuda":
        return Rectangle.backend
    is_new = torch.cuda.get_device_capability(device) >= (8, 0)
    return Batch.backend if is_new else Rectangle.backend


def bits_of(constants: list[float]) -> Tensor:
    """Float32 numbers for a buffer, as integers, which `.half()` does not round; on the CPU."""
    return torch.tensor(constants, dtype=torch.float32, device="cpu").view(torch.int32)


class TransformerEncoder(Encoder):
    """A stack of attention layers over the flat tokens of a layout."""

    embed: nn.Embedding  # one row a token
    heads: int  # attention heads
    skip: ClassVar[int] = 0  # special tokens at each end that do not count in the mean
    uses_alibi: ClassVar[bool] = False  # attention adds a distance penalty

    @abstractmethod
    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states: shape (T, dim), in the dtype of the weights; waits for no device."""

    @property
    def backend(self) -> str:
        """Name of the attention kernels."""
        return self.forced_backend or self._best()

    def _best(self, ours: bool = True) -> str:
        weights, head_dim = self.embed.weight, self.dim // self.heads
        return choose_backend(weights.device, weights.dtype, head_dim, self.uses_alibi, ours)

    def lay_out(self, batch: Batch) -> Layout:
        """Arrange a batch for the kernels in use; on the batch's device."""
        if self.backend == Tiled.backend:
            return Tiled.of(batch, self.pad_id)
        if self.backend == Batch.backend:
            return batch
        return Rectangle.of(batch, self.pad_id, int(bucket_width(batch.longest)))

    def encode(self, layout: Layout) -> Tensor:
        """Vectors of a layout on the encoder's device: shape (n, dim), float32."""
        with sdpa_kernel(_KERNELS):
            return layout.mean(self.hidden(layout), self.skip)

    def prove(self) -> str:
        """Name kernels that give the vectors of plain attention; ours may give way to PyTorch's.

        A DeviceError tells of PyTorch's that do not hold; forced ones stay as they are.
        """
        is_ours = self.backend == Tiled.backend and self.forced_backend is None
        if is_ours and (problem := self._against_plain()):
            self.forced_backend = self._best(ours=False)
            log.warning("Triton kernels %s; '%s' is used instead", problem, self.forced_backend)
        if self.backend == Batch.backend and (problem := self._against_plain()):
            raise DeviceError(f"attention kernels 'varlen' {problem}")
        return self.backend

    def _against_plain(self) -> str:
        """What is wrong with the chosen kernels in this network; empty where nothing is."""
        bounds = torch.tensor((0, *_PROOF_LENGTHS)).cumsum(0).int()
        generator = torch.Generator().manual_seed(0)
        known = min(24, self.embed.num_embeddings)
        tokens = torch.randint(4, known, (int(bounds[-1]),), generator=generator)
        batch = Batch(tokens, bounds, max(_PROOF_LENGTHS))
        plain = Rectangle.of(batch, self.pad_id, batch.longest).to(self.device)
        with torch.inference_mode():
            wanted = self.encode(plain)
            try:
                got = self(batch).cpu()
            except Exception as error:  # noqa: BLE001 - a compiler of kernels may raise anything
                return f"do not run here ({type(error).__name__}: {str(error).strip()[-200:]})"
        off = float((got - wanted.cpu()).norm() / wanted.norm())
        if off < _NETWORK_TOLERANCES[self.embed.weight.dtype]:
            return ""
        return f"are off by {off:.2g} here"
