"""Hidden states of an encoder token by token, as references give them."""

import torch
from torch import Tensor

from virnucpro.encoders.attention import TransformerEncoder
from virnucpro.encoders.base import Batch, Rectangle


def hidden_states(encoder: TransformerEncoder, batch: Batch) -> list[Tensor]:
    """Last hidden states of each sequence: n tensors (tokens, dim), in batch order."""
    layout = encoder.lay_out(batch).to(encoder.device)
    return split(layout, encoder.hidden(layout))


def split(layout: Batch | Rectangle, values: Tensor) -> list[Tensor]:
    """Values (T, ...) of the tokens of each sequence: n tensors (tokens, ...), in batch order."""
    if isinstance(layout, Batch):
        return list(torch.split(values, layout.cu_seqlens.diff().tolist()))
    rows = zip(layout.rows(values), layout.lengths.tolist(), strict=True)
    return [row[:length] for row, length in rows]
