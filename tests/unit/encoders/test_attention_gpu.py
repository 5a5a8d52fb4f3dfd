"""Kernels for packed tokens, ours and PyTorch's, and what float16 costs, on a GPU."""

import numpy as np
import pytest
import torch

from virnucpro.encoders import attention
from virnucpro.encoders.base import collate
from virnucpro.encoders.dnabert import Dnabert
from virnucpro.encoders.esm2 import Esm2
from virnucpro.models.specs import DnabertShape, Esm2Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTHS = [1022, 3, 49, 166, 500, 51, 8, 1, 64, 65]
NETWORKS = {
    "esm2": (lambda: Esm2(Esm2Shape(layers=6, dim=320, heads=5, ffn=1280)), "varlen"),
    "dnabert": (lambda: Dnabert(DnabertShape(layers=4, dim=192, heads=3, ffn=512)), "sdpa"),
}
WITHOUT_OURS = "without our kernels"


@pytest.fixture(params=["with our kernels", WITHOUT_OURS])
def ours(request, monkeypatch):
    """Whether our own kernels may run; without them as on an older GPU."""
    if request.param == WITHOUT_OURS:
        monkeypatch.setattr(attention, "run_on", lambda *_: False)
        return False
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("our kernels are made for Hopper")
    return True


@pytest.fixture(params=NETWORKS, ids=list(NETWORKS))
def trio(request, ours):
    """The network in float32 on the CPU and in float16 on the GPU, and its backend there."""
    make, backend = NETWORKS[request.param]
    backend = "triton" if ours else backend
    torch.manual_seed(0)
    plain = make().eval().requires_grad_(False)
    fast = make().requires_grad_(False)
    fast.load_state_dict(plain.state_dict())
    return plain, fast.to("cuda", torch.float16).eval(), backend


def sequences(lengths=LENGTHS):
    numbers = np.random.default_rng(0)
    return [(numbers.integers(4, 30, n + 2)) for i, n in enumerate(lengths)]


def relative(got, wanted):
    return float((got.cpu() - wanted).norm() / wanted.norm())


def test_float16_on_the_gpu_stays_within_its_figure(trio):
    plain, fast, backend = trio
    assert fast.prove() == backend
    items = sequences()
    wanted = plain(collate(items))
    vectors = fast(collate(items))
    assert vectors.dtype == torch.float32
    assert relative(vectors, wanted) < 1.5e-3
    fast.forced_backend = "sdpa"
    assert relative(fast(collate(items)), wanted) < 1.5e-3


def test_float32_on_the_gpu_uses_the_portable_path_and_is_exact(trio):
    plain, fast, _ = trio
    exact = fast.float()
    exact.load_state_dict(plain.state_dict())
    items = sequences()
    assert exact.backend == "sdpa"
    assert relative(exact(collate(items)), plain(collate(items))) < 1e-5
