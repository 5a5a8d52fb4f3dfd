"""What an encoder is, and how the tokens of a batch lie in memory and see each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.core.records import Tokens

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11

QUERIES = 64  # places that one program of our attention kernel takes
_UNSEEN = -1.0e4  # exp() of it is 0 in every float type, and float16 can hold it


class _Movable:
    """A dataclass whose tensors move together."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The same on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory, so that copies can overlap with work."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = [getattr(self, field.name) for field in fields(cast("Any", self))]
        return type(self)(*[change(v) if isinstance(v, Tensor) else v for v in values])


@dataclass(frozen=True)
class Batch(_Movable):
    """Sequences end to end, for kernels that know their bounds; those without tokens are zeros."""

    backend: ClassVar[str] = "varlen"  # name of the attention kernels
    tokens: Tensor  # (T,), int64
    cu_seqlens: Tensor  # (n + 1,), int32: where each sequence starts; the last is the total
    longest: int  # no sequence has more tokens

    def positions(self) -> Tensor:
        """Place of each token in its sequence, from 0: shape (T,), without a word to the host."""
        ends = self.cu_seqlens[1:]
        index = torch.arange(len(self.tokens), device=ends.device, dtype=ends.dtype)
        segments = torch.searchsorted(ends, index, right=True).clamp_(max=len(ends) - 1)
        return index - self.cu_seqlens[segments]

    def mask(self, slopes: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What attention adds to its scores: nothing, the kernel reads the bounds."""
        if slopes is not None:
            raise ValueError("the varlen kernel has no ALiBi; use a Rectangle")
        return None

    def attend(self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Full attention inside each sequence: three times (T, h, d) to (T, h * d)."""
        from torch.nn.attention import varlen  # loads the compiler too, which takes seconds

        bounds = self.cu_seqlens
        seen = varlen.varlen_attn(*qkv, bounds, bounds, self.longest, self.longest)
        return torch.as_tensor(seen).flatten(1)

    def mean(self, hidden: Tensor, skip: int) -> Tensor:
        """Average (T, d) without `skip` tokens at both ends: (n, d) float32, in order."""
        starts, ends = self.cu_seqlens[:-1].long(), self.cu_seqlens[1:].long()
        first = torch.minimum(starts + skip, ends)
        last = torch.maximum(ends - skip, first)
        # What lies between two sequences is a segment of its own, and left out.
        offsets = torch.stack([first, last], 1).flatten()
        every = torch.segment_reduce(hidden.float(), "sum", offsets=offsets, axis=0, unsafe=True)
        return every[::2] / (last - first).clamp(min=1)[:, None]


def collate(items: Sequence[Tokens]) -> Batch:
    """Join sequences end to end."""
    lengths = [len(item) for item in items]
    bounds = np.cumsum([0, *lengths], dtype=np.int32)
    tokens = np.concatenate(items).astype(np.int64, copy=False)
    return Batch(torch.from_numpy(tokens), torch.from_numpy(bounds), max(lengths))


@dataclass(frozen=True)
class Tiled(Batch):
    """A batch for the Triton kernels, which want to know where programs begin."""

    backend: ClassVar[str] = "triton"
    tiles: Tensor  # (m, 2), int32; see `tiles_of`

    @classmethod
    def of(cls, batch: Batch, pad_id: int) -> Tiled:
        """Lay out a batch; one on a GPU costs a wait, so do it before the copy."""
        # Products in float8 want a multiple of 16 tokens; those at the end are of no sequence.
        tokens = functional.pad(batch.tokens, (0, -len(batch.tokens) % 16), value=pad_id)
        tiles = tiles_of(batch.cu_seqlens.cpu()).to(tokens.device)
        return cls(tokens, batch.cu_seqlens, batch.longest, tiles)


def tiles_of(bounds: Tensor) -> Tensor:
    """Runs of `QUERIES` places that cover every sequence: (sequence, first), (m, 2), int32.

    >>> tiles_of(torch.tensor([0, 3, 70])).tolist()
    [[0, 0], [1, 0], [1, 64]]
    """
    counts = (bounds.diff().long() + QUERIES - 1) // QUERIES
    owners = torch.arange(len(counts)).repeat_interleave(counts)
    first = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
    return torch.stack([owners, first * QUERIES], 1).int()


@dataclass(frozen=True)
class Rectangle(_Movable):
    """A row for each sequence, padded on the right; see `Batch` for what it does."""

    backend: ClassVar[str] = "sdpa"
    tokens: Tensor  # (n * width,), int64
    lengths: Tensor  # (n,), int64: real tokens in each row
    longest: int  # width of a row

    @classmethod
    def of(cls, batch: Batch, pad_id: int, width: int) -> Rectangle:
        """Lay out a batch, none of whose sequences is longer than `width`."""
        starts, lengths = batch.cu_seqlens[:-1].long(), batch.cu_seqlens.diff().long()
        columns = torch.arange(width, device=starts.device)
        places = (starts[:, None] + columns).clamp(max=len(batch.tokens) - 1)
        rows = batch.tokens[places].where(columns < lengths[:, None], pad_id)
        return cls(rows.flatten(), lengths, width)

    def rows(self, values: Tensor) -> Tensor:
        """A view of values (n * width, ...) of tokens by sequence: (n, width, ...)."""
        return values.view(len(self.lengths), self.longest, *values.shape[1:])

    def positions(self) -> Tensor:
        """Place of each token in its row."""
        return self._columns().repeat(len(self.lengths))

    def mask(self, slopes: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Which keys exist (n, 1, 1, width), or how far they are (n, h, width, width)."""
        columns = self._columns()
        # The first key always counts: a row of padding alone must not divide by 0.
        exists = (columns < self.lengths.clamp(min=1)[:, None])[:, None, None, :]
        if slopes is None:
            return exists
        distance = (columns[:, None] - columns[None, :]).abs()
        return torch.where(exists, (-slopes[:, None, None] * distance).to(dtype), _UNSEEN)

    def attend(self, qkv: tuple[Tensor, Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Full attention inside each row."""
        q, k, v = (self.rows(x).transpose(1, 2) for x in qkv)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return seen.transpose(1, 2).reshape(len(self.tokens), -1)

    def mean(self, hidden: Tensor, skip: int) -> Tensor:
        """Average over the real tokens of each row."""
        columns = self._columns()
        kept = (columns >= skip) & (columns < self.lengths[:, None] - skip)
        sums = self.rows(hidden).float().masked_fill(~kept[:, :, None], 0.0).sum(1)
        return sums / (self.lengths - 2 * skip).clamp(min=1)[:, None]

    def _columns(self) -> Tensor:
        return torch.arange(self.longest, device=self.tokens.device)


Layout = Batch | Rectangle


def bucket_width(lengths: Any) -> Any:
    """Round lengths (whole numbers, or an array) up so that few widths remain (tokens).

    To a multiple of 8 up to 128 tokens (the kernels want that much), of 16 up to 256 and so on.

    >>> bucket_width(np.array([1, 8, 104, 130, 1022])).tolist()
    [8, 8, 104, 144, 1024]
    """
    step = 2 ** (np.log2(np.maximum(lengths, 128) - 0.5).astype(np.int64) - 3)
    return -(-np.maximum(lengths, 1) // step) * step


class Encoder(nn.Module, ABC):
    """Turns a batch into pooled vectors, whatever else it holds."""

    # sequences up to this long want batches of their own; 0 for none
    short_tokens: ClassVar[int] = 0
    # token slots of a batch on a CPU, where free memory says nothing of its caches
    cpu_tokens: ClassVar[int] = 4_096
    numbers: str = ""  # that products are computed in, where the weights do not tell
    # name of the attention kernels to use instead of the best ones; None for those
    forced_backend: str | None = None
    dim: int  # width of a vector
    pad_id: int  # token that fills padded rows

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def backend(self) -> str:
        """Name of what looks beyond a token."""
        return "conv"

    def prove(self) -> str:
        """The backend, after it was compared with a plain one on this device."""
        return self.backend

    def lay_out(self, batch: Batch) -> Layout:
        """Arrange a batch as the encoder wants it; on the batch's device."""
        return Rectangle.of(batch, self.pad_id, batch.longest)

    @abstractmethod
    def encode(self, layout: Any) -> Tensor:
        """Vectors of what `lay_out` gave, on the encoder's device: shape (n, dim), float32."""

    def forward(self, batch: Batch) -> Tensor:
        """Embed each sequence of `batch`: shape (n, dim), float32, rows in batch order."""
        return self.encode(self.lay_out(batch).to(self.device, non_blocking=True))
