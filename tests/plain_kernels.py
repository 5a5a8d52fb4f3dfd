"""The contracts of `encoders/kernels.py` in plain PyTorch, for a machine that cannot run them."""

import itertools

import torch
from torch.nn import functional

from virnucpro.encoders.kernels import FP8_LARGEST, Quantised
from virnucpro.encoders.plain import gelu_linear


def add_norm(states, update, norm, keep=True, fp8=False):
    total = states.float() if update is None else states.float() + update.float()
    if keep and update is not None:
        states.copy_(total)
    weight, bias = norm.weight.float(), norm.bias.float()
    normed = functional.layer_norm(total, norm.normalized_shape, weight, bias, norm.eps)
    return quantise(normed) if fp8 else normed.to(norm.weight.dtype)


def attend(qkv, where):
    """One sequence after the other; tokens of none hold NaN, as the kernel may leave anything."""
    out = torch.full((len(qkv), qkv.shape[1] // 3), float("nan"), device=qkv.device).to(qkv.dtype)
    bounds, tiles = where.layout.cu_seqlens, where.layout.tiles
    assert bounds.dtype == tiles.dtype == torch.int32
    width = qkv.shape[1] // (3 * where.heads)
    covered = {tuple(tile) for tile in tiles.tolist()}
    for i, (a, b) in enumerate(itertools.pairwise(bounds.tolist())):
        q, k, v = qkv[a:b].float().view(b - a, 3, where.heads, width).permute(1, 2, 0, 3)
        mask = None
        if where.turns is not None:
            q, k = (turned(x, where.turns[: b - a]).to(qkv.dtype).float() for x in (q, k))
        if where.slopes is not None:
            place = torch.arange(b - a, device=qkv.device)
            mask = -where.slopes[:, None, None] * (place[:, None] - place[None, :]).abs()
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        for first in range(0, b - a, 64):
            if (i, first) in covered:
                rows = seen.transpose(0, 1).flatten(1)[first : first + 64]
                out[a + first : a + first + len(rows)] = rows.to(out.dtype)
    return out


def turned(heads, turns):
    (cos, sin), (x, y) = turns.chunk(2, -1), heads.chunk(2, -1)
    return torch.cat((x * cos - y * sin, y * cos + x * sin), -1)


def gelu_fp8(x, bias):
    return quantise(functional.gelu(x.float() + bias.float()))


def quantise(x):
    scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_LARGEST
    return Quantised((x.float() / scale).to(torch.float8_e4m3fn), scale)


def scaled_mm(a, b, scale_a, scale_b, bias=None, *, out_dtype, use_fast_accum):
    """What `torch._scaled_mm` does with a scale for each row and each column."""
    product = (a.float() * scale_a) @ (b.float() * scale_b)
    return (product if bias is None else product + bias.float()).to(out_dtype)


KERNELS = (add_norm, attend, gelu_linear, gelu_fp8)


def install(monkeypatch):
    for kernel in KERNELS:
        monkeypatch.setattr(f"virnucpro.encoders.kernels.{kernel.__name__}", kernel)
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
