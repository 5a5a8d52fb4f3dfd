"""Each of our kernels beside plain PyTorch on the same random numbers, on a GPU."""

import pytest
import torch
from torch import nn

from tests import plain_kernels
from virnucpro.encoders import kernels
from virnucpro.encoders.kernels import Sight, tiles_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        kernels.triton is None
        or not torch.cuda.is_available()
        or torch.cuda.get_device_capability() < (9, 0),
        reason="needs a Hopper GPU and Triton",
    ),
]
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
    """Relative norm of the difference."""
    return float((got.float() - wanted.float()).norm() / wanted.float().norm())


def norm_of(dim, dtype):
    norm = nn.LayerNorm(dim, device="cuda", dtype=dtype).requires_grad_(False)
    norm.weight.copy_(draw(dim, dtype=dtype))
    norm.bias.copy_(draw(dim, dtype=dtype, seed=1))
    return norm


@pytest.mark.parametrize("dim", [768, 2560])
@pytest.mark.parametrize("keep", [True, False])
def test_add_norm(dtype, dim, keep):
    states, update = draw(COUNT, dim, dtype=dtype), draw(COUNT, dim, dtype=dtype, seed=1)
    twin, norm = states.clone(), norm_of(dim, dtype)
    wanted = plain_kernels.add_norm(twin, update, norm, keep=keep)
    assert off(kernels.add_norm(states, update, norm, keep=keep), wanted) < TOLERANCE[dtype]
    assert torch.equal(states, twin)


def test_add_norm_keeps_sums_of_short_proteins_in_float32(dtype):
    states, norm = draw(40, 2560), norm_of(2560, dtype)
    twin, update = states.clone(), draw(40, 2560, dtype=dtype, seed=1)
    wanted = plain_kernels.add_norm(twin, update, norm)
    got = kernels.add_norm(states, update, norm)
    assert got.dtype == dtype
    assert off(got, wanted) < TOLERANCE[dtype]
    assert off(states, twin) < 1e-6


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("alibi", [False, True], ids=["rotary", "alibi"])
def test_attend(dtype, width, alibi):
    heads = 5
    bounds = torch.tensor([0, *LENGTHS]).cumsum(0).int()
    turns = None if alibi else draw(1022, width)
    slopes = draw(heads).abs() if alibi else None
    where = Sight(bounds.cuda(), tiles_of(bounds).cuda(), heads, turns, slopes)
    qkv = draw(COUNT, 3 * heads * width, dtype=dtype)
    real = int(bounds[-1])
    got, wanted = kernels.attend(qkv, where)[:real], plain_kernels.attend(qkv, where)[:real]
    assert off(got, wanted) < TOLERANCE[dtype]


def test_gelu_is_the_exact_one(dtype):
    """Products with one weight of 1 leave the activation alone."""
    x = torch.zeros(COUNT, 64, device="cuda", dtype=dtype)
    x[:, 0] = torch.linspace(-8, 8, COUNT).to(dtype)
    linear = nn.Linear(64, 256, device="cuda", dtype=dtype).requires_grad_(False)
    linear.weight.zero_()[:, 0] = 1
    linear.bias.zero_()
    wanted = torch.nn.functional.gelu(x[:, :1].double())
    worst = (kernels.gelu_linear(x, linear).double() - wanted).abs() / wanted.abs().clamp(min=0.25)
    assert float(worst.max()) < 0.6 * torch.finfo(dtype).eps


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
