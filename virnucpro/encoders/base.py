"""What every encoder is: a batch of token ids in, one vector per sequence out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import Self  # since Python 3.11


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
class Batch(OnHostOrDevice):
    """Sequences end to end, nothing between them."""

    tokens: Tensor  # shape (total,), int64
    cu_seqlens: Tensor  # shape (n + 1,), int32: where each sequence starts; the last is the total
    longest: int  # no sequence has more tokens

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1


class Encoder(nn.Module, ABC):
    """Turns a batch into pooled vectors, whatever else it holds."""

    # sequences up to this long want batches of their own; 0 for none
    short_tokens: ClassVar[int] = 0
    # token slots of a batch on a CPU, where free memory says nothing of its caches
    cpu_tokens: ClassVar[int] = 4_096
    numbers: str = ""  # that products are computed in, where the weights do not tell
    dim: int  # width of a vector
    pad_id: int  # token that fills padded rows

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Embed each sequence of `batch`: shape (n, dim), float32, rows in batch order."""
