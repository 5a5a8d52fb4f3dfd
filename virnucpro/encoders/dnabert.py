"""DNABERT-S: a BERT with ALiBi, the same in both directions, and a gated feed-forward block."""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.encoders.attention import TransformerEncoder, bits_of
from virnucpro.encoders.base import Layout
from virnucpro.models.specs import DnabertShape


class Dnabert(TransformerEncoder):
    """DNABERT-S (arXiv:2402.08777), then the mean over all tokens, CLS and SEP among them."""

    pad_id = 3

    def __init__(self, shape: DnabertShape) -> None:
        super().__init__()
        self.shape = shape
        self.dim, self.heads = shape.dim, shape.heads
        self.embed = nn.Embedding(shape.vocab, shape.dim)
        self.token_types = nn.Embedding(shape.token_types, shape.dim)
        self.embed_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.register_buffer("slope_bits", bits_of(alibi_slopes(shape.heads)), persistent=False)
        self.slope_bits: Tensor
        self.layers = nn.ModuleList(DnabertLayer(shape) for _ in range(shape.layers))

    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states: shape (T, dim)."""
        where = self.sight(layout, None, self.slope_bits.view(torch.float32))
        table, ops = self.embed.weight + self.token_types.weight[0], where.ops
        embedded = functional.embedding(layout.tokens, table)
        states: Tensor = ops.add_norm(embedded, None, self.embed_norm)
        for layer in cast("list[DnabertLayer]", self.layers):
            seen = layer.out(ops.attend(layer.qkv(states), where))
            states = ops.add_norm(states, seen, layer.attention_norm, keep=False)
            inner = layer.down(ops.geglu(states, layer.gate_up.weight))
            states = ops.add_norm(states, inner, layer.ffn_norm, keep=False)
        return states


class DnabertLayer(nn.Module):
    """Attention and gated feed-forward block, the sum normed after each."""

    def __init__(self, shape: DnabertShape) -> None:
        super().__init__()
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim)
        self.out = nn.Linear(shape.dim, shape.dim)
        self.attention_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.gate_up = nn.Linear(shape.dim, 2 * shape.ffn, bias=False)
        self.down = nn.Linear(shape.ffn, shape.dim)
        self.ffn_norm = nn.LayerNorm(shape.dim, eps=shape.eps)


def alibi_slopes(heads: int) -> list[float]:
    """How much each head minds distance (arXiv:2108.12409), steepest first.

    A geometric series for a power of two; the heads beyond one take every second slope of
    the series that is twice as long.

    >>> alibi_slopes(3)
    [0.0625, 0.00390625, 0.25]
    """
    series = 2 ** int(math.log2(heads))
    main = [8 * (i + 1) / series for i in range(series)]
    rest = [8 * (2 * i + 1) / (2 * series) for i in range(heads - series)]
    return [2.0**-exponent for exponent in main + rest]
