"""Encoders small enough to know their answer."""

import numpy as np
import torch
from torch import Tensor, nn

from virnucpro.encoders.base import Batch, Encoder

DIM = 4


class MeanEncoder(Encoder):
    """The mean of one learned row a token; what a batch holds besides cannot matter."""

    dim, pad_id = DIM, 0

    def __init__(self, vocabulary: int = 32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.rows = nn.Parameter(torch.randn(vocabulary, DIM, generator=generator))

    def lay_out(self, batch: Batch) -> Batch:
        return batch

    def encode(self, layout: Batch) -> Tensor:
        return layout.mean(self.rows[layout.tokens], 0)


def make_items(lengths, seed=0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(1, 31, n) for n in lengths]


def expected(encoder: MeanEncoder, items: list[np.ndarray]) -> np.ndarray:
    rows = encoder.rows.detach().numpy()
    return np.array([rows[item].mean(0) for item in items])


def vectors_of(batches, count: int) -> np.ndarray:
    """Vectors of all rows, shape (count, d); fails on a row that comes twice or never."""
    found = np.full((count, DIM), np.nan, np.float32)
    for rows, vectors in batches:
        assert np.isnan(found[rows]).all(), f"one of {rows} came twice"
        found[rows] = vectors
    assert np.isfinite(found).all()
    return found
