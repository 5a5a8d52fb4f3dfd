"""What encoders take: token ids side by side (padded) or end to end (packed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Self, cast

import torch
from torch import Tensor


class OnHostOrDevice:
    """A dataclass whose tensors move together."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The same on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory, so that copies can overlap with work."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(cast("Any", self))}
        tensors = {name: change(v) for name, v in values.items() if isinstance(v, Tensor)}
        return type(self)(**(values | tensors))


@dataclass(frozen=True)
class PaddedBatch(OnHostOrDevice):
    """A rectangle: every row as long as the longest sequence."""

    tokens: Tensor  # shape (n, longest), int64, padded on the right
    lengths: Tensor  # shape (n,), int64: real tokens in each row

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True)
class PackedBatch(OnHostOrDevice):
    """Sequences end to end, nothing between them."""

    tokens: Tensor  # shape (total,), int64
    cu_seqlens: Tensor  # shape (n + 1,), int32: where each sequence starts; the last is the total
    max_length: int  # tokens of the longest sequence

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1


Batch = PaddedBatch | PackedBatch
