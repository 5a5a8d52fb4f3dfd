"""ESM-2 with most of its matrix products in float8: nearly twice the speed, at a price.

Weights are quantised by row, what a product takes by token. The attention's output projection
stays as it is, and so do the layers named in `KEPT`: there float8 costs most and gains least.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from virnucpro.core.errors import UsageError
from virnucpro.encoders import kernels
from virnucpro.encoders.base import Tiled
from virnucpro.encoders.esm2 import Esm2, Esm2Layer
from virnucpro.encoders.kernels import FP8_LARGEST, Quantised, Sight

KEPT = (0, -1)  # layers


class Fp8Linear(nn.Module):
    """A linear layer in float8; if it is not `biased`, the next kernel adds the bias."""

    values: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear, biased: bool = True) -> None:
        super().__init__()
        self.biased = biased
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / FP8_LARGEST
        self.register_buffer("values", (weight / scale).to(torch.float8_e4m3fn))
        self.register_buffer("scale", scale.T.contiguous())
        self.register_buffer("bias", linear.bias.detach())

    def forward(self, x: Quantised) -> Tensor:
        """Rows (T, in) to (T, out), in the numbers of the original layer; T in sixteens."""
        return torch._scaled_mm(
            x.values, self.values.T, x.scale, self.scale, self.bias if self.biased else None,
            out_dtype=self.bias.dtype, use_fast_accum=True,
        )  # fmt: skip


class Fp8Layer(nn.Module):
    """As the layer it is made from, three of its four products in float8."""

    def __init__(self, layer: Esm2Layer) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = layer.attention_norm, layer.ffn_norm
        self.qkv, self.out = Fp8Linear(layer.qkv), layer.out
        self.up, self.down = Fp8Linear(layer.up, biased=False), Fp8Linear(layer.down)

    def tiled(self, states: Tensor, update: Tensor | None, where: Sight) -> Tensor:
        """As `Esm2Layer.tiled`."""
        normed = kernels.add_norm(states, update, self.attention_norm, fp8=True)
        seen = self.out(kernels.attend(self.qkv(normed), where))
        normed = kernels.add_norm(states, seen, self.ffn_norm, fp8=True)
        given: Tensor = self.down(kernels.gelu_fp8(self.up(normed), self.up.bias))
        return given


def to_fp8(encoder: Esm2) -> Esm2:
    """A quantised twin on the same device; a UsageError where our kernels do not run."""
    if encoder.prove() != Tiled.backend:
        needs = "an H100 or later, Triton, and float16 elsewhere"
        raise UsageError(f"--precision fp8 needs {needs}; leave it out")
    twin = copy.copy(encoder)
    twin._modules = dict(encoder._modules)
    layers = cast("list[Esm2Layer]", list(encoder.layers))
    kept = {number % len(layers) for number in KEPT}
    twin.layers = nn.ModuleList(
        layer if i in kept else Fp8Layer(layer) for i, layer in enumerate(layers)
    )
    twin.forced_backend = Tiled.backend  # there is no plain path back
    twin.numbers = "float8"
    return twin
