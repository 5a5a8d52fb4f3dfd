"""What `kernels` does, in PyTorch alone, for rectangles: on any device, in any numbers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from virnucpro.encoders.kernels import Sight


def add_norm(
    states: Tensor, update: Tensor | None, norm: nn.LayerNorm, keep: bool = True, fp8: bool = False
) -> Tensor:
    """Norm of `states + update` (T, d); `states` take the sum if `keep`; `fp8` cannot be."""
    if update is not None:
        states = states.add_(update) if keep else states + update
    weight, bias = norm.weight.to(states.dtype), norm.bias.to(states.dtype)
    normed = functional.layer_norm(states, norm.normalized_shape, weight, bias, norm.eps)
    return normed.to(norm.weight.dtype)


def attend(qkv: Tensor, where: Sight) -> Tensor:
    """Attention inside each row: (T, 3 * heads * d) to (T, heads * d); angles in float32."""
    by_head = where.layout.rows(qkv).unflatten(-1, (3, where.heads, -1))
    q, k, v = by_head.permute(2, 0, 3, 1, 4)  # each (n, heads, width, d)
    if where.turns is not None:
        q, k = (_turned(heads.float(), where.turns).to(qkv.dtype) for heads in (q, k))
    seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=where.mask)
    return seen.transpose(1, 2).reshape(len(qkv), -1)


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    (cos, sin), (first, second) = turns.chunk(2, -1), heads.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def gelu_linear(states: Tensor, linear: nn.Linear) -> Tensor:
    """GELU of a linear layer, (T, d) to (T, inner); without a bias, of a gate, its first half."""
    inner = functional.linear(states, linear.weight, linear.bias)
    if linear.bias is not None:
        return functional.gelu(inner)
    gate, up = inner.chunk(2, -1)
    return functional.gelu(gate) * up
