"""Our kernels beside plain PyTorch, networks on them, and what float16 costs: on a GPU."""

import numpy as np
import pytest
import torch
from torch import nn

from tests import plain_kernels
from virnucpro.encoders import kernels
from virnucpro.encoders.base import Tiled
from virnucpro.encoders.kernels import Sight
from virnucpro.encoders.transformer import Dnabert, Esm2
from virnucpro.models.specs import DnabertShape, Esm2Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
hopper = pytest.mark.skipif(
    kernels.triton is None
    or not torch.cuda.is_available()
    or torch.cuda.get_device_capability() < (9, 0),
    reason="needs a Hopper GPU and Triton",
)
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 8e-3}
LENGTHS = [1022, 3, 0, 64, 1, 65, 200, 51]
COUNT = 1409  # tokens: three of no sequence, and no multiple of a tile


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def dtype(request):
    return request.param


def draw(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


def off(got, wanted):
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


def norm_of(dim, dtype):
    norm = nn.LayerNorm(dim, device="cuda", dtype=dtype).requires_grad_(False)
    norm.weight.copy_(draw(dim, dtype=dtype))
    norm.bias.copy_(draw(dim, dtype=dtype, seed=1))
    return norm


@hopper
@pytest.mark.parametrize("dim", [768, 2560])
@pytest.mark.parametrize("keep", [True, False])
def test_add_norm(dtype, dim, keep):
    states, update = draw(COUNT, dim, dtype=dtype), draw(COUNT, dim, dtype=dtype, seed=1)
    twin, norm = states.clone(), norm_of(dim, dtype)
    wanted = plain_kernels.add_norm(twin, update, norm, keep=keep)
    assert off(kernels.add_norm(states, update, norm, keep=keep), wanted) < TOLERANCE[dtype]
    assert torch.equal(states, twin)


@hopper
def test_add_norm_keeps_sums_of_short_proteins_in_float32(dtype):
    states, norm = draw(40, 2560), norm_of(2560, dtype)
    twin, update = states.clone(), draw(40, 2560, dtype=dtype, seed=1)
    wanted = plain_kernels.add_norm(twin, update, norm)
    got = kernels.add_norm(states, update, norm)
    assert got.dtype == dtype
    assert off(got, wanted) < TOLERANCE[dtype]
    assert off(states, twin) < 1e-6


@hopper
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("alibi", [False, True], ids=["rotary", "alibi"])
def test_attend(dtype, width, alibi):
    heads = 5
    layout = Tiled.of([np.zeros(n) for n in LENGTHS], 0)
    turns = None if alibi else draw(1022, width)
    slopes = draw(heads).abs() if alibi else None
    where = Sight(kernels, layout.to(torch.device("cuda")), heads, turns, slopes, None)
    qkv = draw(COUNT, 3 * heads * width, dtype=dtype)
    real = sum(LENGTHS)
    got, wanted = kernels.attend(qkv, where)[:real], plain_kernels.attend(qkv, where)[:real]
    assert off(got, wanted) < TOLERANCE[dtype]


@hopper
@pytest.mark.parametrize("what", ["norm", "gelu"])
def test_float8_values_are_those_of_plain_pytorch_but_for_ties(dtype, what):
    x, bias = draw(COUNT, 2560, dtype=dtype), draw(2560, dtype=dtype)
    if what == "gelu":
        got, wanted = (k.gelu_fp8(x, bias) for k in (kernels, plain_kernels))
    else:
        norm = norm_of(2560, dtype)
        got, wanted = (k.add_norm(x.clone(), x, norm, fp8=True) for k in (kernels, plain_kernels))
    assert off(got.scale, wanted.scale) < 1e-5
    assert off(got.values.float() * got.scale, wanted.values.float() * wanted.scale) < 5e-3


MIXED = [1022, 3, 49, 166, 500, 51, 8, 1, 64, 65]
NETWORKS = {
    "esm2": lambda: Esm2(Esm2Shape(layers=6, dim=320, heads=5, ffn=1280)),
    "dnabert": lambda: Dnabert(DnabertShape(layers=4, dim=192, heads=3, ffn=512)),
}
WITHOUT_OURS = "without our kernels"


@pytest.fixture(params=["with our kernels", WITHOUT_OURS])
def ours(request, monkeypatch):
    """Whether our own kernels may run; without them as on an older GPU."""
    if request.param == WITHOUT_OURS:
        monkeypatch.setattr(kernels, "run_on", lambda *_: False)
        return False
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("our kernels are made for Hopper")
    return True


@pytest.fixture(params=NETWORKS, ids=list(NETWORKS))
def trio(request, ours):
    """The network in float32 on the CPU and in float16 on the GPU, and its backend there."""
    make, backend = NETWORKS[request.param], "triton" if ours else "sdpa"
    torch.manual_seed(0)
    plain = make().eval().requires_grad_(False)
    fast = make().requires_grad_(False)
    fast.load_state_dict(plain.state_dict())
    return plain, fast.to("cuda", torch.float16).eval(), backend


def sequences(lengths=MIXED):
    numbers = np.random.default_rng(0)
    return [(numbers.integers(4, 30, n + 2)) for i, n in enumerate(lengths)]


def relative(got, wanted):
    return float((got.cpu() - wanted).norm() / wanted.norm())


def test_float16_on_the_gpu_stays_within_its_figure(trio):
    plain, fast, backend = trio
    fast.prove()
    assert fast.backend == backend
    items = sequences()
    wanted = plain(items)
    vectors = fast(items)
    assert vectors.dtype == torch.float32
    assert relative(vectors, wanted) < 1.5e-3
    fast.forced_backend = "sdpa"
    assert relative(fast(items), wanted) < 1.5e-3
