"""Which attention kernels run, and what all transformers share.

Kernels are named: `triton` are our own, for packed tokens (Hopper GPUs, 16-bit), `varlen` is
PyTorch's for them (CUDA, 16-bit), `sdpa` reads rectangles and runs everywhere.
"""

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from virnucpro.core.errors import DeviceError
from virnucpro.encoders.base import Batch, Encoder
from virnucpro.encoders.kernels import run_on
from virnucpro.encoders.layouts import Layout, PackedLayout, RectangleLayout, TiledLayout

log = logging.getLogger("virnucpro.engines")

_PROOF_LENGTHS = (3, 17, 1, 64, 65, 200)
# Relative norm of whole vectors: five times what rounding alone makes of 36 layers.
_NETWORK_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float32: 1e-4}


def choose_backend(
    device: torch.device, dtype: torch.dtype, head_dim: int, alibi: bool, ours: bool = True
) -> str:
    """Kernels for packed tokens: `triton`, `varlen` (which knows no ALiBi), else `sdpa`."""
    if ours and run_on(device, dtype, head_dim):
        return TiledLayout.backend
    fits = dtype in (torch.float16, torch.bfloat16) and head_dim % 8 == 0 and head_dim <= 256
    if alibi or not fits or device.type != "cuda":
        return "sdpa"
    return "varlen" if torch.cuda.get_device_capability(device) >= (8, 0) else "sdpa"


@contextmanager
def pinned_kernels() -> Iterator[None]:
    """Let PyTorch choose only among kernels whose speed is known for short sequences."""
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
        yield


def bits_of(constants: list[float]) -> Tensor:
    """Float32 numbers for a buffer, as integers, which `.half()` does not round; on the CPU."""
    return torch.tensor(constants, dtype=torch.float32, device="cpu").view(torch.int32)


class TransformerEncoder(Encoder):
    """A stack of attention layers over the flat tokens of a layout."""

    embed: nn.Embedding  # one row a token
    heads: int  # attention heads
    skip: ClassVar[int] = 0  # special tokens at each end that do not count in the mean
    uses_alibi: ClassVar[bool] = False  # attention adds a distance penalty
    # name of the kernels to use instead of the best ones; None for those
    forced_backend: str | None = None

    @abstractmethod
    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states: shape (T, dim), in the dtype of the weights; waits for no device."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def backend(self) -> str:
        """Name of the attention kernels that packed batches use."""
        if self.forced_backend is not None:
            return self.forced_backend
        weights = next(self.parameters())
        head_dim = self.dim // self.heads
        return choose_backend(weights.device, weights.dtype, head_dim, self.uses_alibi)

    def lay_out(self, batch: Batch) -> Layout:
        """Arrange a batch for the kernels in use; on the batch's device."""
        if self.backend == TiledLayout.backend:
            return TiledLayout.of(batch, self.pad_id)
        if self.backend == PackedLayout.backend:
            return PackedLayout.of(batch)
        return RectangleLayout.of(batch, self.pad_id)

    def encode(self, layout: Layout) -> Tensor:
        """Vectors of a layout on the encoder's device: shape (n, dim), float32."""
        return layout.mean(self.hidden(layout), self.skip)

    def forward(self, batch: Batch) -> Tensor:
        """Embed each sequence of `batch`: shape (n, dim), float32, rows in batch order."""
        layout = self.lay_out(batch).to(self.device, non_blocking=True)
        with pinned_kernels():
            return self.encode(layout)


def prove_backend(encoder: TransformerEncoder) -> str:
    """Name the backend whose vectors in this network are those of plain attention.

    Our own kernels give way to PyTorch's, with a line in the log, where they do not hold; forced
    ones are left to whoever forced them. A DeviceError tells of PyTorch's that do not hold.
    """
    is_ours = encoder.backend == TiledLayout.backend and encoder.forced_backend is None
    if is_ours and (problem := _against_plain(encoder)):
        weights = next(encoder.parameters())
        head_dim, alibi = encoder.dim // encoder.heads, encoder.uses_alibi
        instead = choose_backend(weights.device, weights.dtype, head_dim, alibi, ours=False)
        log.warning("Triton kernels %s; '%s' is used instead", problem, instead)
        encoder.forced_backend = instead
    if encoder.backend == PackedLayout.backend and (problem := _against_plain(encoder)):
        raise DeviceError(f"attention kernels 'varlen' {problem}")
    return encoder.backend


def _against_plain(encoder: TransformerEncoder) -> str:
    """What is wrong with the chosen kernels in this network; empty where nothing is."""
    weights = next(encoder.parameters())
    bounds = torch.tensor((0, *_PROOF_LENGTHS)).cumsum(0).int()
    generator = torch.Generator().manual_seed(0)
    known = min(24, encoder.embed.num_embeddings)
    tokens = torch.randint(4, known, (int(bounds[-1]),), generator=generator)
    batch = Batch(tokens, bounds, max(_PROOF_LENGTHS))
    plain = RectangleLayout.of(batch, encoder.pad_id).to(weights.device)
    with torch.inference_mode(), pinned_kernels():
        wanted = encoder.encode(plain)
        try:
            got = encoder.encode(encoder.lay_out(batch).to(weights.device)).cpu()
        except Exception as error:  # noqa: BLE001 - a compiler of kernels may raise anything
            return f"do not run here ({type(error).__name__}: {str(error).strip()[-200:]})"
    off = float((got - wanted.cpu()).norm() / wanted.norm())
    return "" if off < _NETWORK_TOLERANCES[weights.dtype] else f"are off by {off:.2g} here"
