"""Encoders small enough to know their answer."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.core.records import Tokens
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.batches import Batch, PackedBatch

DIM = 4


class MeanEncoder(Encoder):
    """The mean of one learned row a token; what a batch holds besides cannot matter."""

    dim, pad_id = DIM, 0

    def __init__(self, vocabulary: int = 32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.rows = nn.Parameter(torch.randn(vocabulary, DIM, generator=generator))

    def forward(self, batch: Batch) -> Tensor:
        rows = self.rows[batch.tokens].float()
        if isinstance(batch, PackedBatch):
            lengths = batch.cu_seqlens.diff().long()
            owner = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            sums = torch.zeros(len(lengths), DIM).index_add_(0, owner, rows)
            return sums / lengths.clamp(min=1)[:, None]
        inside = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
        return (rows * inside[:, :, None]).sum(1) / batch.lengths[:, None]


def make_items(lengths, seed=0) -> list[Tokens]:
    draw = np.random.default_rng(seed)
    return [Tokens(f"s{i}", draw.integers(1, 32, n)) for i, n in enumerate(lengths)]


def expected(encoder: MeanEncoder, items: list[Tokens]) -> dict[str, np.ndarray]:
    rows = encoder.rows.detach().numpy()
    return {item.seq_id: rows[item.ids].mean(0) for item in items}


def by_id(batches) -> dict[str, np.ndarray]:
    """Vectors by id; fails on an id that comes twice."""
    found: dict[str, np.ndarray] = {}
    for batch in batches:
        for seq_id, vector in zip(batch.seq_ids, batch.vectors, strict=True):
            assert seq_id not in found, f"{seq_id} came twice"
            found[seq_id] = vector
    return found
