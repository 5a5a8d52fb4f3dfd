"""Layouts: who sees whom, and what a mean covers. The varlen kernel itself needs a GPU."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from virnucpro.core.errors import DeviceError
from virnucpro.encoders.base import collate
from virnucpro.encoders.esm2 import Esm2
from virnucpro.models.specs import Esm2Shape

VARLEN = "torch.nn.attention.varlen.varlen_attn"
LENGTHS = [5, 1, 140, 8, 9, 8, 300, 1022, 2]


def varlen_by_hand(q, k, v, bounds, _, longest, __):
    """The kernel's contract, slowly: full attention inside each segment."""
    assert bounds.dtype == torch.int32
    assert int(bounds.diff().max()) <= longest
    out = torch.zeros_like(q)
    for a, b in zip(bounds.tolist(), bounds[1:].tolist(), strict=False):
        heads = (x[a:b].transpose(0, 1) for x in (q, k, v))
        if b > a:
            out[a:b] = functional.scaled_dot_product_attention(*heads).transpose(0, 1)
    return out


@pytest.fixture
def varlen(monkeypatch):
    """The varlen kernel, on the CPU."""
    monkeypatch.setattr(VARLEN, varlen_by_hand)


def sequences(lengths=LENGTHS):
    numbers = np.random.default_rng(0)
    return [(numbers.integers(4, 30, n)) for i, n in enumerate(lengths)]


def test_a_packed_layout_never_asks_the_host():
    """Tensors without content: whoever wants a number of them, gets an error."""
    batch = collate(sequences())
    layout = batch.to(torch.device("meta"))
    states = torch.empty(len(batch.tokens), 6, device="meta", dtype=torch.float16)
    assert layout.mean(states, 1).shape == (len(LENGTHS), 6)
    assert layout.positions().shape == layout.tokens.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        layout.cu_seqlens[1].item()


def test_both_layouts_give_the_same_vectors(varlen):
    encoder = tiny_encoder()
    batch = collate(sequences())
    wanted = encoder(batch)
    encoder.forced_backend = "varlen"
    assert encoder.lay_out(batch).backend == "varlen"
    assert float((encoder(batch) - wanted).abs().max()) <= 3e-6


def test_a_backend_is_proved_before_it_is_used(varlen, monkeypatch):
    encoder = tiny_encoder()
    assert encoder.prove() == "sdpa"
    encoder.forced_backend = "varlen"
    assert encoder.prove() == "varlen"
    monkeypatch.setattr(VARLEN, lambda q, *_: q)
    with pytest.raises(DeviceError, match="off by"):
        encoder.prove()


def tiny_encoder():
    torch.manual_seed(0)
    return Esm2(Esm2Shape(layers=2, dim=32, heads=2, ffn=64)).eval().requires_grad_(False)
