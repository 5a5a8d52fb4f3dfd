"""Triton kernels for Hopper GPUs, which `TransformerEncoder.prove` compares with `plain`.

Each makes one trip through memory where PyTorch makes two to five, for any shape.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from virnucpro.encoders.base import QUERIES

try:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:
    triton = None

FP8_LARGEST = 448.0
_ROWS, _COLUMNS, _DEPTH = 128, 128, 64  # of a tile of a product; COLUMNS twice
_HEAD_WIDTHS = (32, 64, 128)
_LOG2_E = 1.4426950408889634


def run_on(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernels are made for this device and these numbers, and Triton is there."""
    fits = dtype in (torch.float16, torch.bfloat16) and head_dim in _HEAD_WIDTHS
    if triton is None or not fits or device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def jit(kernel: Any) -> Any:
    """Compile a kernel when it is first called, once for all batches; without Triton, nothing."""
    return kernel if triton is None else triton.jit(kernel, do_not_specialize=["count"])


@jit
def _gelu_of(x):  # type: ignore[no-untyped-def]
    # x * Phi(x) with Phi as a logistic function of an odd polynomial: off by 3e-6 at most, which
    # float16 cannot hold; erf itself takes twice the instructions.
    t = tl.minimum(x * x, 30.25)
    p = -2.3020438 + t * (-0.10522991 + t * (3.6199248e-4 + t * (8.7921874e-5 - t * 3.2111243e-6)))
    root = tl.rsqrt(1.0 + tl.exp2(x * p))
    return x * root * root


@jit
def _add_norm(  # type: ignore[no-untyped-def]
    states, update, weight, bias, normed, scales, count, eps,
    KEEP: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < count)[:, None] & (columns < DIM)[None, :]
    at = rows.to(tl.int64)[:, None] * DIM + columns[None, :]
    x = tl.load(states + at, mask=inside, other=0.0).to(tl.float32)
    if update is not None:
        x += tl.load(update + at, mask=inside, other=0.0).to(tl.float32)
        if KEEP:
            tl.store(states + at, x.to(states.dtype.element_ty), mask=inside)
    centred = tl.where(inside, x - tl.sum(x, 1)[:, None] / DIM, 0.0)
    spread = tl.sum(centred * centred, 1) / DIM
    factors = tl.load(weight + columns, mask=columns < DIM, other=0.0).to(tl.float32)
    offsets = tl.load(bias + columns, mask=columns < DIM, other=0.0).to(tl.float32)
    y = centred * tl.rsqrt(spread + eps)[:, None] * factors[None, :] + offsets[None, :]
    if scales is not None:
        scale = tl.maximum(tl.max(tl.abs(y), 1), 1e-12) / 448.0
        tl.store(scales + rows, scale, mask=rows < count)
        y = y / scale[:, None]
    tl.store(normed + at, y.to(normed.dtype.element_ty), mask=inside)


@jit
def _turn(first, second, table, rows, there, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    at = rows[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    cos = tl.load(table + at, mask=there[:, None], other=0.0)
    sin = tl.load(table + at + HALF, mask=there[:, None], other=0.0)
    x, y = first.to(tl.float32), second.to(tl.float32)
    kind = first.dtype
    return (x * cos - y * sin).to(kind), (y * cos + x * sin).to(kind)


@jit
def _attend(  # type: ignore[no-untyped-def]
    qkv, out, bounds, tiles, table, slopes, scale,
    HEADS: tl.constexpr, HALF: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0) // HEADS, tl.program_id(0) % HEADS
    segment, first = tl.load(tiles + 2 * tile), tl.load(tiles + 2 * tile + 1)
    start = tl.load(bounds + segment)
    length = tl.load(bounds + segment + 1) - start
    width: tl.constexpr = HEADS * 2 * HALF
    half, whole = tl.arange(0, HALF), tl.arange(0, 2 * HALF)
    rows = first + tl.arange(0, QUERIES)
    there = rows < length
    base = qkv + start.to(tl.int64) * (3 * width) + head * (2 * HALF)
    at = base + rows[:, None] * (3 * width) + half[None, :]
    q1 = tl.load(at, mask=there[:, None], other=0.0)
    q2 = tl.load(at + HALF, mask=there[:, None], other=0.0)
    if table is not None:
        q1, q2 = _turn(q1, q2, table, rows, there, HALF)
    if slopes is not None:
        slope = tl.load(slopes + head) * (1.4426950408889634 / scale)
    peak = tl.full([QUERIES], -float("inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    seen = tl.zeros([QUERIES, 2 * HALF], tl.float32)
    for begin in range(0, length, KEYS):
        keys = begin + tl.arange(0, KEYS)
        real = keys < length
        row = base + width + keys[:, None] * (3 * width)
        k1 = tl.load(row + half[None, :], mask=real[:, None], other=0.0)
        k2 = tl.load(row + HALF + half[None, :], mask=real[:, None], other=0.0)
        v = tl.load(row + width + whole[None, :], mask=real[:, None], other=0.0)
        if table is not None:
            k1, k2 = _turn(k1, k2, table, keys, real, HALF)
        scores = tl.dot(q1, tl.trans(k1))
        scores = tl.dot(q2, tl.trans(k2), scores)
        if slopes is not None:
            scores -= slope * tl.abs(rows[:, None] - keys[None, :]).to(tl.float32)
        scores = tl.where(real[None, :], scores, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp2(scores * scale - (higher * scale)[:, None])
        shrink = tl.exp2((peak - higher) * scale)
        total = total * shrink + tl.sum(p, 1)
        seen = tl.dot(p.to(v.dtype), v, seen * shrink[:, None])
        peak = higher
    to = (start + rows).to(tl.int64)[:, None] * width + head * (2 * HALF) + whole[None, :]
    tl.store(out + to, (seen / total[:, None]).to(out.dtype.element_ty), mask=there[:, None])


@jit
def _gelu_fp8(  # type: ignore[no-untyped-def]
    x, bias, out, scales, DIM: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    inside = columns < DIM
    at = row.to(tl.int64) * DIM + columns
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    y = _gelu_of(value + tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32))
    scale = tl.maximum(tl.max(tl.abs(y), 0), 1e-12) / 448.0
    tl.store(scales + row, scale)
    tl.store(out + at, (y / scale).to(out.dtype.element_ty), mask=inside)


@jit
def _gelu_product(  # type: ignore[no-untyped-def]
    states, weight, bias, out, count,
    DIM: tl.constexpr, INNER: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    # Two runs of COLUMNS weights at once: neighbours, or, without a bias, a gate and its values.
    wide: tl.constexpr = COLUMNS if bias is None else 2 * COLUMNS
    across: tl.constexpr = INNER // wide
    down = tl.cdiv(count, ROWS)
    for tile in tl.range(tl.program_id(0), down * across, PROGRAMS, flatten=True):
        group = tile // (GROUP * across)
        tall = min(down - group * GROUP, GROUP)
        row = (group * GROUP + tile % tall) * ROWS
        column = tile % (GROUP * across) // tall * wide
        sums = tl.zeros([ROWS, 2 * COLUMNS], tl.float32)
        for k in range(0, DIM, DEPTH):
            if bias is None:
                both = weight.load([0, column, k])
            else:
                both = weight.load([column // COLUMNS, 0, k])
            sums = tl.dot(states.load([row, k]), both.reshape(2 * COLUMNS, DEPTH).T, sums)
        first, second = sums.reshape(ROWS, 2, COLUMNS).permute(0, 2, 1).split()
        if bias is None:
            out.store([row, column], (_gelu_of(first) * second).to(out.dtype))
        else:
            at = bias + column + tl.arange(0, COLUMNS)
            first += tl.load(at)[None, :].to(tl.float32)
            second += tl.load(at + COLUMNS)[None, :].to(tl.float32)
            out.store([row, column], _gelu_of(first).to(out.dtype))
            out.store([row, column + COLUMNS], _gelu_of(second).to(out.dtype))


class Sight(NamedTuple):
    """Who sees whom, positions by rotary angles or by ALiBi, and what computes it."""

    ops: Any  # this module for a `Tiled` layout, `plain` for a `Rectangle`
    layout: Any
    heads: int  # each d wide
    turns: Tensor | None  # cosines, then sines of the first positions, (longest, d), float32
    slopes: Tensor | None  # of ALiBi, one a head, (heads,), float32
    mask: Tensor | None  # of a rectangle


class Quantised(NamedTuple):
    """Rows in float8: `values` (T, d) float8_e4m3fn times `scale` (T, 1) float32."""

    values: Tensor
    scale: Tensor


def add_norm(
    states: Tensor, update: Tensor | None, norm: nn.LayerNorm, keep: bool = True, fp8: bool = False
) -> Any:
    """Norm of `states + update` (T, d) in float32; `states` take the sum if `keep`."""
    count, dim = states.shape
    block = triton.next_power_of_2(dim)
    rows = max(1, 4096 // block)
    normed = _empty(states, dim, torch.float8_e4m3fn if fp8 else norm.weight.dtype)
    scale = _empty(states, 1, torch.float32) if fp8 else None
    _add_norm[(triton.cdiv(count, rows),)](
        states, update, norm.weight, norm.bias, normed, scale, count, norm.eps,
        KEEP=keep, DIM=dim, BLOCK=block, ROWS=rows, num_warps=4,
    )  # fmt: skip
    return normed if scale is None else Quantised(normed, scale)


def attend(qkv: Tensor, where: Sight) -> Tensor:
    """Attention inside each sequence: (T, 3 * heads * d) to (T, heads * d), padding to anything."""
    width = qkv.shape[1] // (3 * where.heads)
    seen = _empty(qkv, where.heads * width, qkv.dtype)
    bounds, tiles = where.layout.cu_seqlens, where.layout.tiles
    _attend[(len(tiles) * where.heads,)](
        qkv, seen, bounds, tiles, where.turns, where.slopes, _LOG2_E * width**-0.5,
        HEADS=where.heads, HALF=width // 2, QUERIES=QUERIES, KEYS=64,
        num_warps=4, num_stages=1 if where.slopes is None else 3,
    )  # fmt: skip
    return seen


def gelu_linear(states: Tensor, linear: nn.Linear) -> Tensor:
    """GELU, as erf defines it, of a linear layer: (T, d) to (T, inner).

    Without a bias, of its first half alone, which is a gate times the other.
    """
    (count, dim), weight, bias = states.shape, linear.weight, linear.bias
    inner = len(weight) // 2 if bias is None else len(weight)
    runs = weight.view(2, inner, dim) if bias is None else weight.view(-1, _COLUMNS, dim)
    out = _empty(states, inner, states.dtype)
    programs = torch.cuda.get_device_properties(states.device).multi_processor_count
    _gelu_product[(programs,)](
        TensorDescriptor.from_tensor(states, [_ROWS, _DEPTH]),
        TensorDescriptor.from_tensor(runs, [2, _COLUMNS, _DEPTH]),
        bias, TensorDescriptor.from_tensor(out, [_ROWS, _COLUMNS]), count,
        DIM=dim, INNER=inner, ROWS=_ROWS, COLUMNS=_COLUMNS, DEPTH=_DEPTH, GROUP=8,
        PROGRAMS=programs, num_warps=8, num_stages=4,
    )  # fmt: skip
    return out


def gelu_fp8(x: Tensor, bias: Tensor) -> Quantised:
    """GELU of `x + bias`, (T, inner), quantised, each row by its largest value."""
    count, dim = x.shape
    done = Quantised(_empty(x, dim, torch.float8_e4m3fn), _empty(x, 1, torch.float32))
    block = triton.next_power_of_2(dim)
    _gelu_fp8[(count,)](x, bias, *done, DIM=dim, BLOCK=block, num_warps=8)
    return done


def _empty(like: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(len(like), width, dtype=dtype, device=like.device)
