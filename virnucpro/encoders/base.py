"""What an encoder is, and how the tokens of a batch lie in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.core.records import Tokens
from virnucpro.encoders.tokenizers import rows_of

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11

QUERIES = 64  # places that one program of our attention kernel takes
EVEN = 8  # PyTorch's kernels want rows of a multiple of so many tokens
_UNSEEN = -1.0e4  # exp() of it is 0 in every float type, and float16 can hold it


@dataclass(frozen=True)
class Layout(ABC):
    """Sequences in memory; those without tokens have vectors of zeros."""

    backend: ClassVar[str]  # name of the attention kernels
    tokens: Tensor  # (T,), int64
    longest: int  # no sequence has more tokens

    @abstractmethod
    def mean(self, hidden: Tensor, skip: int) -> Tensor:
        """Average (T, d) without `skip` tokens at both ends: (n, d) float32, in order."""

    def to(self, device: torch.device) -> Self:
        """The same on `device`, on its way there."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed."""
        fields = vars(self).items()
        tensors: dict[str, Any] = {k: change(v) for k, v in fields if isinstance(v, Tensor)}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Tiled(Layout):
    """Sequences end to end, for the Triton kernels."""

    backend: ClassVar[str] = "triton"
    cu_seqlens: Tensor  # (n + 1,), int32: where each sequence starts; the last is the total
    # (sequence, first place) of runs of `QUERIES` places that cover every sequence, (m, 2), int32
    tiles: Tensor

    @classmethod
    def of(cls, items: Sequence[Tokens], pad_id: int) -> Tiled:
        """Lay out sequences, on the CPU."""
        bounds = torch.tensor([0, *map(len, items)]).cumsum(0)
        tokens = torch.from_numpy(np.concatenate(items).astype(np.int64, copy=False))
        # Products in float8 want a multiple of 16 tokens; those at the end are of no sequence.
        tokens = functional.pad(tokens, (0, -len(tokens) % 16), value=pad_id)
        counts = (bounds.diff() + QUERIES - 1) // QUERIES
        owners = torch.arange(len(counts)).repeat_interleave(counts)
        first = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
        tiles = torch.stack([owners, first * QUERIES], 1).int()
        return cls(tokens, max(map(len, items)), bounds.int(), tiles)

    def mean(self, hidden: Tensor, skip: int) -> Tensor:
        """As `Layout.mean`, without a word to the host."""
        starts, ends = self.cu_seqlens[:-1].long(), self.cu_seqlens[1:].long()
        first = torch.minimum(starts + skip, ends)
        last = torch.maximum(ends - skip, first)
        # What lies between two sequences is a segment of its own, and left out.
        offsets = torch.stack([first, last], 1).flatten()
        every = torch.segment_reduce(hidden.float(), "sum", offsets=offsets, axis=0, unsafe=True)
        return every[::2] / (last - first).clamp(min=1)[:, None]


@dataclass(frozen=True)
class Rectangle(Layout):
    """A row for each sequence, padded on the right to `longest` tokens."""

    backend: ClassVar[str] = "sdpa"
    lengths: Tensor  # (n,), int64: real tokens in each row

    @classmethod
    def of(cls, items: Sequence[Tokens], pad_id: int, width: int) -> Rectangle:
        """Lay out sequences, none of which is longer than `width`, on the CPU."""
        rows = torch.from_numpy(rows_of(items, pad_id, width))
        return cls(rows.flatten(), width, torch.tensor([len(item) for item in items]))

    def rows(self, values: Tensor) -> Tensor:
        """A view of values (n * width, ...) of tokens by sequence: (n, width, ...)."""
        return values.view(len(self.lengths), self.longest, *values.shape[1:])

    def mask(self, slopes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Which keys exist (n, 1, 1, width), or how far they are (n, h, width, width)."""
        columns = torch.arange(self.longest, device=self.tokens.device)
        # The first key always counts: a row of padding alone must not divide by 0.
        exists = (columns < self.lengths.clamp(min=1)[:, None])[:, None, None, :]
        if slopes is None:
            return exists
        distance = (columns[:, None] - columns[None, :]).abs()
        return torch.where(exists, (-slopes[:, None, None] * distance).to(dtype), _UNSEEN)

    def mean(self, hidden: Tensor, skip: int) -> Tensor:
        """As `Layout.mean`."""
        columns = torch.arange(self.longest, device=self.tokens.device)
        kept = (columns >= skip) & (columns < self.lengths[:, None] - skip)
        sums = self.rows(hidden).float().masked_fill(~kept[:, :, None], 0.0).sum(1)
        return sums / (self.lengths - 2 * skip).clamp(min=1)[:, None]


class Encoder(nn.Module, ABC):
    """Turns token sequences into pooled vectors, whatever else a batch holds."""

    short_tokens: ClassVar[int] = 0  # of the longest that want batches of their own; 0 for none
    cpu_tokens: ClassVar[int] = 4_096  # slots of a batch on a CPU: free memory says nothing there
    numbers: str = ""  # that products are computed in, where the weights do not tell
    forced_backend: str | None = None  # attention kernels in place of the best ones
    backend: str = "conv"  # name of what looks beyond a token
    dim: int  # width of a vector
    pad_id: int  # token that fills padded rows

    def prove(self) -> None:
        """Compare the backend with a plain one on this device; it gives way where it is wrong."""

    def lay_out(self, items: Sequence[Tokens]) -> Layout:
        """Arrange a batch as the encoder wants it, on the CPU."""
        return Rectangle.of(items, self.pad_id, max(map(len, items)))

    @abstractmethod
    def encode(self, layout: Any) -> Tensor:
        """Vectors of what `lay_out` gave, on the encoder's device: shape (n, dim), float32."""

    def forward(self, items: Sequence[Tokens]) -> Tensor:
        """Embed each of some sequences: shape (n, dim), float32, in their order."""
        return self.encode(self.lay_out(items).to(next(self.parameters()).device))
