"""ESM-2 in plain PyTorch: protein tokens in, one vector per protein out."""

import copy
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from virnucpro.core.errors import UsageError
from virnucpro.encoders.attention import TransformerEncoder, bits_of
from virnucpro.encoders.base import Layout, Tiled
from virnucpro.encoders.kernels import FP8_LARGEST, Quantised, Sight
from virnucpro.models.specs import Esm2Shape

VOCABULARY = 33
PAD_ID = 1
KEPT = (0, -1)  # layers whose products stay: there float8 costs most and gains least
# In training 15% of the tokens were picked and 80% of those masked, and sums were of the others.
_TRAINED_SHARE = 1 - 0.15 * 0.8


class Esm2(TransformerEncoder):
    """ESM-2 (doi:10.1126/science.ade2574), then the mean of all tokens but BOS and EOS."""

    skip: ClassVar[int] = 1
    pad_id = PAD_ID
    # Each layer adds to a token's states and rounds the sum. A mean over few residues keeps more
    # of that than the fidelity we promise in float16 allows; where all are short, sums are float32.
    short_tokens: ClassVar[int] = 16

    def __init__(self, shape: Esm2Shape) -> None:
        super().__init__()
        self.shape = shape
        self.dim, self.heads = shape.dim, shape.heads
        self.embed = nn.Embedding(VOCABULARY, shape.dim)
        head_dim = shape.dim // shape.heads
        exponents = torch.arange(0, head_dim, 2, device="cpu").float() / head_dim
        # a float16 frequency would be off by up to 0.16 rad at position 1022
        bits = bits_of((1.0 / 10000**exponents).tolist())
        self.register_buffer("frequency_bits", bits, persistent=False)
        self.frequency_bits: Tensor
        self.layers = nn.ModuleList(Esm2Layer(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.dim, eps=shape.eps)

    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states, after the final layer norm: shape (T, dim)."""
        states: Tensor = self.embed(layout.tokens)
        if self.shape.token_dropout:
            states = (states.float() * _TRAINED_SHARE).to(states.dtype)
        if layout.longest <= self.short_tokens:
            states = states.float()
        places = torch.arange(layout.longest, device=self.frequency_bits.device)
        angles = places[:, None].float() * self.frequency_bits.view(torch.float32)
        where = self.sight(layout, torch.cat((angles.cos(), angles.sin()), -1), None)
        update = None
        for layer in self.layers:
            update = layer(states, update, where)
        last: Tensor = where.ops.add_norm(states, update, self.norm)
        return last


class Esm2Layer(nn.Module):
    """Attention and feed-forward block, each on normed states and added to them."""

    is_fp8 = False  # whether all products but that of `out` are in float8
    qkv: Any  # linear, or `Fp8Linear`, as the next two
    up: Any
    down: Any

    def __init__(self, shape: Esm2Shape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim)
        self.out = nn.Linear(shape.dim, shape.dim)
        self.ffn_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.up = nn.Linear(shape.dim, shape.ffn)
        self.down = nn.Linear(shape.ffn, shape.dim)

    def forward(self, states: Tensor, update: Tensor | None, where: Sight) -> Tensor:
        """What the layer adds to `states` (T, dim), to which `update`, the last one's, is added."""
        ops = where.ops
        normed = ops.add_norm(states, update, self.attention_norm, fp8=self.is_fp8)
        seen = self.out(ops.attend(self.qkv(normed), where))
        normed = ops.add_norm(states, seen, self.ffn_norm, fp8=self.is_fp8)
        if self.is_fp8:
            given: Tensor = self.down(ops.gelu_fp8(self.up(normed), self.up.bias))
        else:
            given = self.down(ops.gelu_linear(normed, self.up))
        return given


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


def to_fp8(encoder: Esm2) -> Esm2:
    """A twin with most products in float8; a UsageError where our kernels do not run.

    Weights are quantised by row, what a product takes by token; the attention's output stays. What
    is not quantised is shared.
    """
    if encoder.backend != Tiled.backend:
        needs = "an H100 or later, Triton, and float16 elsewhere"
        raise UsageError(f"--precision fp8 needs {needs}; leave it out")
    twin = copy.deepcopy(encoder, {id(weights): weights for weights in encoder.parameters()})
    kept = {number % len(twin.layers) for number in KEPT}
    for i, layer in enumerate(cast("list[Esm2Layer]", twin.layers)):
        if i not in kept:
            up = Fp8Linear(layer.up, biased=False)
            layer.qkv, layer.up, layer.down = Fp8Linear(layer.qkv), up, Fp8Linear(layer.down)
            layer.is_fp8 = True
    twin.forced_backend = Tiled.backend  # there is no plain path back
    twin.numbers = "float8"
    return twin
