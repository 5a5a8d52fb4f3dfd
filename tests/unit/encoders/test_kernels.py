"""Layers around our kernels, for which plain PyTorch stands: the vectors of the plain path."""

import logging

import numpy as np
import pytest
import torch

from tests import plain_kernels
from virnucpro.encoders import kernels
from virnucpro.encoders.base import Tiled
from virnucpro.encoders.transformer import Dnabert, Esm2, to_fp8
from virnucpro.models.specs import DnabertShape, Esm2Shape

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
MIXED, SHORT = [5, 1, 66, 130, 64, 65, 200], [3, 16, 1, 9]
NETWORKS = {
    "esm2": lambda: Esm2(Esm2Shape(layers=4, dim=64, heads=2, ffn=256)),
    "dnabert": lambda: Dnabert(DnabertShape(layers=2, dim=64, heads=2, ffn=128)),
}


@pytest.fixture(params=NETWORKS, ids=list(NETWORKS))
def encoder(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]().eval().requires_grad_(False)


@pytest.fixture
def installed(monkeypatch):
    plain_kernels.install(monkeypatch)
    monkeypatch.setattr(kernels, "run_on", lambda *_: True)


def batch_of(lengths):
    numbers = np.random.default_rng(0)
    return [numbers.integers(4, 30, n) for n in lengths]


@pytest.mark.parametrize("lengths", [MIXED, SHORT], ids=["mixed", "short"])
def test_layers_around_our_kernels_give_the_vectors_of_the_plain_path(
    encoder, lengths, monkeypatch
):
    batch = batch_of(lengths)
    wanted = encoder(batch)
    plain_kernels.install(monkeypatch)
    encoder.forced_backend = "triton"
    assert encoder.lay_out(batch).backend == "triton"
    assert float((encoder(batch) - wanted).abs().max()) <= 3e-6


def test_empty_sequences_and_tokens_of_none_touch_no_other_row(encoder, installed):
    items = batch_of([7, 30, 3])
    wanted = encoder(items)
    vectors = encoder([*items, *batch_of([0, 24, 0])])
    assert len(encoder.lay_out(items).tokens) == 48
    assert vectors.shape == (6, encoder.dim)
    assert float((vectors[:3] - wanted).abs().max()) <= 3e-6
    assert vectors[4].any() and not vectors[3].any() and not vectors[5].any()


def test_a_packed_layout_never_asks_the_host(encoder):
    layout = Tiled.of(batch_of(MIXED), encoder.pad_id).to(torch.device("meta"))
    states = torch.empty(len(layout.tokens), 6, device="meta", dtype=torch.float16)
    assert layout.mean(states, 1).shape == (len(MIXED), 6)
    with pytest.raises((RuntimeError, NotImplementedError)):
        layout.cu_seqlens[1].item()


@pytest.mark.parametrize(
    ("has_triton", "capability", "dtype", "head_dim", "wanted"),
    [
        (True, (9, 0), torch.float16, 64, True),
        (True, (9, 0), torch.bfloat16, 32, True),
        (True, (9, 0), torch.float32, 64, False),
        (True, (9, 0), torch.float16, 24, False),
        (True, (8, 0), torch.float16, 64, False),
        (False, (9, 0), torch.float16, 64, False),
    ],
)
def test_our_kernels_run_where_they_are_made_for(
    monkeypatch, has_triton, capability, dtype, head_dim, wanted
):
    monkeypatch.setattr(kernels, "triton", object() if has_triton else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert kernels.run_on(CUDA, dtype, head_dim) is wanted
    assert not kernels.run_on(CPU, dtype, head_dim)


@pytest.mark.parametrize("name", ["add_norm", "attend"])
def test_a_wrong_kernel_gives_way_to_the_plain_path(encoder, installed, monkeypatch, caplog, name):
    right = getattr(plain_kernels, name)
    monkeypatch.setattr(kernels, name, lambda *args, **options: right(*args, **options) * 1.02)
    packed = batch_of(MIXED)
    wrong = encoder(packed)
    with caplog.at_level(logging.WARNING, "virnucpro.engines"):
        encoder.prove()
    assert "Triton kernels are off by" in caplog.text
    assert encoder.lay_out(packed).backend == "sdpa"
    assert float((encoder(packed) - wrong).abs().max()) > 1e-4


def test_a_kernel_that_does_not_compile_gives_way_too(encoder, installed, monkeypatch, caplog):
    def refuse(*_, **__):
        raise AssertionError("unsupported layout")

    monkeypatch.setattr(kernels, "add_norm", refuse)
    encoder.prove()
    assert encoder.backend == "sdpa"
    assert "do not run here (AssertionError: unsupported layout)" in caplog.text


def test_float8_keeps_the_ends_and_stays_near(installed):
    torch.manual_seed(0)
    encoder = NETWORKS["esm2"]().eval().requires_grad_(False)
    packed = batch_of(MIXED)
    wanted = encoder(packed)
    quantised = to_fp8(encoder)
    assert [x.is_fp8 for x in quantised.layers] == [False, True, True, False]
    assert [x.is_fp8 for x in encoder.layers] == [False] * 4
    assert quantised.backend == "triton"
    assert {id(x) for x in quantised.parameters()} <= {id(x) for x in encoder.parameters()}
    off = float((quantised(packed) - wanted).norm() / wanted.norm())
    assert 1e-4 < off < 5e-2  # float8 was there, and did its work
