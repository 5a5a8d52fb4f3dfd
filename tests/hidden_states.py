"""Hidden states of an encoder token by token, as references give them."""

import torch
from torch import Tensor

from virnucpro.encoders.attention import TransformerEncoder, pinned_kernels
from virnucpro.encoders.base import Batch
from virnucpro.encoders.layouts import PackedLayout, RectangleLayout


def hidden_states(encoder: TransformerEncoder, batch: Batch) -> list[Tensor]:
    """Last hidden states of each sequence: n tensors (tokens, dim), in batch order."""
    layout = encoder.lay_out(batch).to(encoder.device)
    with pinned_kernels():
        return split(layout, encoder.hidden(layout))


def split(layout: PackedLayout | RectangleLayout, values: Tensor) -> list[Tensor]:
    """Values (T, ...) of the tokens of each sequence: n tensors (tokens, ...), in batch order."""
    if isinstance(layout, PackedLayout):
        return list(torch.split(values, layout.cu_seqlens.diff().tolist()))
    blocks = torch.split(values, [rows * width for rows, width in layout.shapes])
    rows = [
        row
        for block, shape in zip(blocks, layout.shapes, strict=True)
        for row in block.view(*shape, -1)
    ]
    lengths = layout.lengths.tolist()
    return [rows[row][: lengths[row]] for row in layout.order.tolist()]
