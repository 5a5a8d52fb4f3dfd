"""What encoders take: token ids side by side (padded) or end to end (packed).

Encoders take either and give the same vectors; `engines.plans` fills batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
