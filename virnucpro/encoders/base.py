"""What every encoder is: token ids in, one vector per sequence out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from virnucpro.encoders.batches import Batch


class Encoder(nn.Module, ABC):
    """Turns a batch into pooled vectors; the same for padded and packed batches."""

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
