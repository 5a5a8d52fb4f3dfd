"""Lay token sequences side by side (padded) or end to end (packed).

Room 3 (token ids -> batches). The two layouts are the whole difference between the engines:
encoders take either and give the same vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from virnucpro.core.records import Tokens


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """A rectangle: every row as long as the longest sequence.

    Attributes:
        tokens: shape (n, longest), int64, padded on the right.
        lengths: shape (n,), int64: real tokens in each row.
    """

    tokens: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return len(self.lengths)

    def pin_memory(self) -> PaddedBatch:
        """The same batch in page-locked memory, so that copies can overlap with work."""
        return PaddedBatch(self.tokens.pin_memory(), self.lengths.pin_memory())

    def to(self, device: torch.device, non_blocking: bool = False) -> PaddedBatch:
        """The same batch on `device`."""
        return PaddedBatch(
            self.tokens.to(device, non_blocking=non_blocking),
            self.lengths.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Sequences end to end, nothing between them.

    Attributes:
        tokens: shape (total,), int64.
        cu_seqlens: shape (n + 1,), int32: where each sequence starts; the last is the total.
        max_length: tokens of the longest sequence.
    """

    tokens: Tensor
    cu_seqlens: Tensor
    max_length: int

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    def pin_memory(self) -> PackedBatch:
        """The same batch in page-locked memory, so that copies can overlap with work."""
        return PackedBatch(self.tokens.pin_memory(), self.cu_seqlens.pin_memory(), self.max_length)

    def to(self, device: torch.device, non_blocking: bool = False) -> PackedBatch:
        """The same batch on `device`."""
        return PackedBatch(
            self.tokens.to(device, non_blocking=non_blocking),
            self.cu_seqlens.to(device, non_blocking=non_blocking),
            self.max_length,
        )


Batch = PaddedBatch | PackedBatch


def collate_padded(items: Sequence[Tokens], pad_id: int) -> PaddedBatch:
    """Stack sequences into a rectangle filled up with `pad_id`.

    Raises:
        ValueError: if there are no items, or an item has no tokens.
    """
    lengths = _lengths(items)
    tokens = np.full((len(items), int(lengths.max())), pad_id, dtype=np.int64)
    for row, item in zip(tokens, items, strict=True):
        row[: len(item)] = item
    return PaddedBatch(torch.from_numpy(tokens), torch.from_numpy(lengths))


def collate_packed(items: Sequence[Tokens]) -> PackedBatch:
    """Join sequences end to end.

    Raises:
        ValueError: if there are no items, or an item has no tokens.
    """
    lengths = _lengths(items)
    bounds = np.zeros(len(items) + 1, dtype=np.int32)
    np.cumsum(lengths, out=bounds[1:])
    tokens = np.concatenate([item for item in items]).astype(np.int64, copy=False)
    return PackedBatch(
        torch.from_numpy(tokens),
        torch.from_numpy(bounds),
        int(lengths.max()),
    )


def _lengths(items: Sequence[Tokens]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    lengths = np.array([len(item) for item in items], dtype=np.int64)
    if not len(lengths) or not lengths.all():
        raise ValueError("a batch needs at least one sequence, and each at least one token")
    return lengths
