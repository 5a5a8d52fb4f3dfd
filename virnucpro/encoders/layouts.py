"""How the tokens of a batch lie in memory, and which of them may see each other.

Positions, attention and pooling stand here, twice: `PackedLayout` has no padding and needs a kernel
that knows segment bounds; `RectangleLayout` sorts sequences of like length into rectangles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from virnucpro.encoders.base import Batch, OnHostOrDevice
from virnucpro.encoders.kernels import tiles_of

_UNSEEN = -1.0e4  # exp() of it is 0 in every float type, and float16 can hold it


def varlen_attn(*arguments: Any) -> Any:
    """PyTorch's kernel for packed tokens; it loads the compiler too, which takes seconds."""
    from torch.nn.attention import varlen

    return varlen.varlen_attn(*arguments)


@dataclass(frozen=True)
class PackedLayout(OnHostOrDevice):
    """Sequences end to end; those of no tokens at the end are rows of zeros."""

    backend: ClassVar[str] = "varlen"  # name of the attention kernels
    tokens: Tensor  # (T,), int64
    cu_seqlens: Tensor  # (n + 1,), int32: where each sequence starts
    segments: Tensor  # (T,), int64: which sequence a token belongs to
    longest: int  # no sequence has more tokens; may be rounded up

    @classmethod
    def of(cls, batch: Batch) -> PackedLayout:
        """Find out which token belongs where, without a word to the host."""
        ends = batch.cu_seqlens[1:]
        index = torch.arange(len(batch.tokens), device=ends.device, dtype=ends.dtype)
        segments = torch.searchsorted(ends, index, right=True).clamp_(max=len(ends) - 1)
        return cls(batch.tokens, batch.cu_seqlens, segments, batch.longest)

    def positions(self) -> Tensor:
        """Place of each token in its sequence, from 0: shape (T,), integers."""
        index = torch.arange(len(self.tokens), device=self.tokens.device)
        return index - self.cu_seqlens[self.segments]

    def masks(self, slopes: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """What attention adds to its scores: nothing, the kernel reads the bounds."""
        if slopes is not None:
            raise ValueError("the varlen kernel has no ALiBi; use a RectangleLayout")
        return ()

    def attend(self, qkv: tuple[Tensor, Tensor, Tensor], masks: tuple[Tensor, ...]) -> Tensor:
        """Full attention inside each sequence: three times (T, h, d) to (T, h * d)."""
        bounds = self.cu_seqlens
        seen = varlen_attn(*qkv, bounds, bounds, self.longest, self.longest)
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


@dataclass(frozen=True)
class TiledLayout(PackedLayout):
    """A packed layout for the Triton kernels, which want to know where programs begin."""

    backend: ClassVar[str] = "triton"
    tiles: Tensor  # (m, 2), int32; see `tiles_of`

    @classmethod
    def of(cls, batch: Batch, pad_id: int) -> TiledLayout:  # type: ignore[override]
        """Lay out a batch; one on a GPU costs a wait, so do it before the copy."""
        # Products in float8 want a multiple of 16 tokens; those at the end are of no sequence.
        tokens = functional.pad(batch.tokens, (0, -len(batch.tokens) % 16), value=pad_id)
        flat = PackedLayout.of(replace(batch, tokens=tokens))
        tiles = tiles_of(batch.cu_seqlens.cpu()).to(tokens.device)
        return cls(tokens, flat.cu_seqlens, flat.segments, flat.longest, tiles)


@dataclass(frozen=True)
class RectangleLayout(OnHostOrDevice):
    """Sequences of like length side by side: rectangles, each a view of the flat list."""

    backend: ClassVar[str] = "sdpa"
    tokens: Tensor  # (T,), int64, padded on the right in each row
    lengths: Tensor  # (rows,), int64: real tokens in each row
    order: Tensor  # (n,), int64: the row of each sequence of the batch
    shapes: tuple[tuple[int, int], ...]  # rows and width of each rectangle

    @classmethod
    def of(cls, batch: Batch, pad_id: int) -> RectangleLayout:
        """Lay out a batch; one on a GPU costs a wait, so do it before the copy."""
        bounds = batch.cu_seqlens.long().cpu()
        lengths = bounds.diff()
        widths = bucket_width(lengths)
        by_width = torch.argsort(widths, stable=True)
        order = torch.empty_like(by_width)
        order[by_width] = torch.arange(len(order))
        kinds, counts = torch.unique_consecutive(widths[by_width], return_counts=True)
        starts = torch.zeros(len(order) + 1, dtype=torch.int64)
        torch.cumsum(widths[by_width], 0, out=starts[1:])
        shift = starts[order] - bounds[:-1]  # from a token's old place to its new one
        real = int(bounds[-1])
        place = torch.arange(real) + shift.repeat_interleave(lengths, output_size=real)
        tokens = batch.tokens.new_full((int(starts[-1]),), pad_id)
        tokens[place.to(tokens.device)] = batch.tokens[:real]
        shapes = tuple(zip(counts.tolist(), kinds.tolist(), strict=True))
        device = tokens.device
        return cls(tokens, lengths[by_width].to(device), order.to(device), shapes)

    @property
    def longest(self) -> int:
        """See `PackedLayout`, as for all that follows."""
        return max(width for _, width in self.shapes)

    def positions(self) -> Tensor:
        """See `PackedLayout`."""
        places = [self._columns(width).repeat(rows) for rows, width in self.shapes]
        return torch.cat(places)

    def masks(self, slopes: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Which keys exist (rows, 1, 1, width), or how far they are (rows, h, w, w)."""
        seen = []
        for lengths, (_, width) in zip(self._rows(self.lengths), self.shapes, strict=True):
            columns = self._columns(width)
            # The first key always counts: a row of padding alone must not divide by 0.
            exists = (columns < lengths.clamp(min=1)[:, None])[:, None, None, :]
            if slopes is not None:
                distance = (columns[:, None] - columns[None, :]).abs()
                bias = (-slopes[:, None, None] * distance).to(dtype)
                exists = torch.where(exists, bias, _UNSEEN)
            seen.append(exists)
        return tuple(seen)

    def attend(self, qkv: tuple[Tensor, Tensor, Tensor], masks: tuple[Tensor, ...]) -> Tensor:
        """See `PackedLayout`."""
        seen = []
        start = 0
        for (rows, width), mask in zip(self.shapes, masks, strict=True):
            stop = start + rows * width
            q, k, v = (x[start:stop].view(rows, width, *x.shape[1:]).transpose(1, 2) for x in qkv)
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            seen.append(out.transpose(1, 2).reshape(stop - start, -1))
            start = stop
        return torch.cat(seen) if len(seen) > 1 else seen[0]

    def mean(self, hidden: Tensor, skip: int) -> Tensor:
        """See `PackedLayout`."""
        sums = []
        blocks = torch.split(hidden, [rows * width for rows, width in self.shapes])
        for block, lengths, shape in zip(
            blocks, self._rows(self.lengths), self.shapes, strict=True
        ):
            columns = self._columns(shape[1])
            kept = (columns >= skip) & (columns < lengths[:, None] - skip)
            values = block.view(*shape, -1).float().masked_fill(~kept[:, :, None], 0.0)
            sums.append(values.sum(1))
        means = torch.cat(sums) / (self.lengths - 2 * skip).clamp(min=1)[:, None]
        return means[self.order]

    def _columns(self, width: int) -> Tensor:
        return torch.arange(width, device=self.tokens.device)

    def _rows(self, values: Tensor) -> tuple[Tensor, ...]:
        return torch.split(values, [rows for rows, _ in self.shapes])


Layout = PackedLayout | RectangleLayout


def bucket_width(lengths: Tensor) -> Tensor:
    """Round lengths up so that few widths remain: shape (n,), int64 (tokens).

    To a multiple of 8 up to 128 tokens (the kernels want that much), of 16 up to 256 and so on.

    >>> bucket_width(torch.tensor([1, 8, 104, 130, 1022])).tolist()
    [8, 8, 104, 144, 1024]
    """
    octave = torch.log2(lengths.clamp(min=128).double() - 0.5).floor().long()
    step = torch.where(lengths <= 128, 8, 2 ** (octave - 3))
    return ((lengths.clamp(min=1) + step - 1) // step) * step
