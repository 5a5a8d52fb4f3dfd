"""ESM-2 and DNABERT-S, what they share, and which kernels they run on.

`triton` kernels are our own, for sequences end to end (Hopper GPUs, 16-bit); `sdpa` is PyTorch's
attention over rectangles, which runs everywhere.
"""

import copy
import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from virnucpro.core.errors import UsageError
from virnucpro.core.records import Tokens
from virnucpro.encoders import kernels, plain
from virnucpro.encoders.base import EVEN, Encoder, Layout, Rectangle, Tiled
from virnucpro.encoders.kernels import FP8_LARGEST, Quantised, Sight
from virnucpro.models.specs import DnabertShape, Esm2Shape

log = logging.getLogger("virnucpro.engines")

# whose speed is known for short sequences
_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
_PROOF_LENGTHS = (3, 17, 1, 64, 65, 200)
# Relative norm of whole vectors: five times what rounding alone makes of 36 layers.
_NETWORK_TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 8e-2, torch.float32: 1e-4}
KEPT = (0, -1)  # layers whose products stay: there float8 costs most and gains least
# In training 15% of the tokens were picked and 80% of those masked, and sums were of the others.
_TRAINED_SHARE = 1 - 0.15 * 0.8


class TransformerEncoder(Encoder):
    """A stack of attention layers over the tokens of a layout."""

    skip: ClassVar[int] = 0  # special tokens at each end that do not count in the mean
    constant_bits: Tensor  # of positions, in float32: as integers, which `.half()` does not round

    def __init__(
        self, shape: Esm2Shape | DnabertShape, vocab: int, constants: list[float]
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.heads = shape.dim, shape.heads
        self.embed = nn.Embedding(vocab, shape.dim)  # one row a token
        bits = torch.tensor(constants, dtype=torch.float32, device="cpu").view(torch.int32)
        self.register_buffer("constant_bits", bits, persistent=False)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))

    @abstractmethod
    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states: shape (T, dim), in the dtype of the weights; waits for no device."""

    @property
    def backend(self) -> str:  # type: ignore[override]
        """Name of the attention kernels."""
        weights, head_dim = self.embed.weight, self.dim // self.heads
        is_ours = kernels.run_on(weights.device, weights.dtype, head_dim)
        return self.forced_backend or (Tiled.backend if is_ours else Rectangle.backend)

    def lay_out(self, items: Sequence[Tokens]) -> Layout:
        """Arrange a batch for the kernels in use, on the CPU."""
        if self.backend == Tiled.backend:
            return Tiled.of(items, self.pad_id)
        return Rectangle.of(items, self.pad_id, -(-max(1, *map(len, items)) // EVEN) * EVEN)

    def sight(self, layout: Layout, turns: Tensor | None, slopes: Tensor | None) -> Sight:
        """Who sees whom in a layout, by rotary angles or by the slopes of ALiBi."""
        if not isinstance(layout, Rectangle):
            return Sight(kernels, layout, self.heads, turns, slopes, None)
        mask = layout.mask(slopes, self.embed.weight.dtype)
        return Sight(plain, layout, self.heads, turns, slopes, mask)

    def encode(self, layout: Layout) -> Tensor:
        """Vectors of a layout on the encoder's device: shape (n, dim), float32."""
        with sdpa_kernel(_KERNELS):
            return layout.mean(self.hidden(layout), self.skip)

    def prove(self) -> None:
        """Let our kernels give way to the plain path unless they give its vectors here."""
        if self.backend != Tiled.backend or self.forced_backend is not None:
            return
        numbers, known = np.random.default_rng(0), min(24, self.embed.num_embeddings)
        items = [numbers.integers(4, known, length) for length in _PROOF_LENGTHS]
        with torch.inference_mode():
            layout = Rectangle.of(items, self.pad_id, max(_PROOF_LENGTHS))
            wanted = self.encode(layout.to(self.embed.weight.device)).cpu()
            try:
                off = float((self(items).cpu() - wanted).norm() / wanted.norm())
                problem = f"are off by {off:.2g} here"
                if off < _NETWORK_TOLERANCES[self.embed.weight.dtype]:
                    return
            except Exception as error:  # noqa: BLE001 - a compiler of kernels may raise anything
                text = str(error).strip()[-200:]
                problem = f"do not run here ({type(error).__name__}: {text})"
        self.forced_backend = Rectangle.backend
        log.warning("Triton kernels %s; '%s' is used instead", problem, self.forced_backend)


class Layer(nn.Module):
    """Attention and feed-forward block of either network, and a norm for each."""

    is_fp8 = False  # whether all products but that of `out` are in float8
    qkv: Any  # linear, or `Fp8Linear`, as the next two
    up: Any
    down: Any

    def __init__(self, shape: Esm2Shape | DnabertShape) -> None:
        super().__init__()
        is_gated = isinstance(shape, DnabertShape)  # the gate first, and no biases
        self.attention_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.qkv = nn.Linear(shape.dim, 3 * shape.dim)
        self.out = nn.Linear(shape.dim, shape.dim)
        self.ffn_norm = nn.LayerNorm(shape.dim, eps=shape.eps)
        self.up = nn.Linear(shape.dim, (1 + is_gated) * shape.ffn, bias=not is_gated)
        self.down = nn.Linear(shape.ffn, shape.dim)


class Esm2(TransformerEncoder):
    """ESM-2 (doi:10.1126/science.ade2574), then the mean of all tokens but BOS and EOS."""

    skip: ClassVar[int] = 1
    pad_id = 1
    # Each layer adds to a token's states and rounds the sum. A mean over few residues keeps more
    # of that than the fidelity we promise in float16 allows; where all are short, sums are float32.
    short_tokens: ClassVar[int] = 16

    def __init__(self, shape: Esm2Shape) -> None:
        head_dim = shape.dim // shape.heads
        exponents = torch.arange(0, head_dim, 2, device="cpu").float() / head_dim
        # a float16 frequency would be off by up to 0.16 rad at position 1022
        frequencies = (1.0 / 10000**exponents).tolist()
        super().__init__(shape, 33, frequencies)  # letters as fair-esm numbers them
        self.shape = shape
        self.norm = nn.LayerNorm(shape.dim, eps=shape.eps)

    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states, after the final layer norm: shape (T, dim)."""
        states: Tensor = self.embed(layout.tokens)
        if self.shape.token_dropout:
            states = (states.float() * _TRAINED_SHARE).to(states.dtype)
        if layout.longest <= self.short_tokens:
            states = states.float()
        frequencies = self.constant_bits.view(torch.float32)
        places = torch.arange(layout.longest, device=frequencies.device)
        angles = places[:, None].float() * frequencies
        where = self.sight(layout, torch.cat((angles.cos(), angles.sin()), -1), None)
        update, ops = None, where.ops
        for layer in cast("list[Layer]", self.layers):  # each adds to normed states
            normed = ops.add_norm(states, update, layer.attention_norm, fp8=layer.is_fp8)
            seen = layer.out(ops.attend(layer.qkv(normed), where))
            normed = ops.add_norm(states, seen, layer.ffn_norm, fp8=layer.is_fp8)
            if layer.is_fp8:
                update = layer.down(ops.gelu_fp8(layer.up(normed), layer.up.bias))
            else:
                update = layer.down(ops.gelu_linear(normed, layer.up))
        last: Tensor = ops.add_norm(states, update, self.norm)
        return last


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

    Weights are quantised by row, what a product takes by token; all else is shared.
    """
    if encoder.backend != Tiled.backend:
        needs = "an H100 or later, Triton, and float16 elsewhere"
        raise UsageError(f"--precision fp8 needs {needs}; leave it out")
    twin = copy.deepcopy(encoder, {id(weights): weights for weights in encoder.parameters()})
    kept = {number % len(twin.layers) for number in KEPT}
    for i, layer in enumerate(cast("list[Layer]", twin.layers)):
        if i not in kept:
            up = Fp8Linear(layer.up, biased=False)
            layer.qkv, layer.up, layer.down = Fp8Linear(layer.qkv), up, Fp8Linear(layer.down)
            layer.is_fp8 = True
    twin.forced_backend = Tiled.backend  # there is no plain path back
    twin.numbers = "float8"
    return twin


class Dnabert(TransformerEncoder):
    """DNABERT-S (arXiv:2402.08777), then the mean over all tokens, CLS and SEP among them."""

    pad_id = 3

    def __init__(self, shape: DnabertShape) -> None:
        super().__init__(shape, shape.vocab, alibi_slopes(shape.heads))
        self.shape = shape
        self.token_types = nn.Embedding(shape.token_types, shape.dim)
        self.embed_norm = nn.LayerNorm(shape.dim, eps=shape.eps)

    def hidden(self, layout: Layout) -> Tensor:
        """Last hidden states: shape (T, dim)."""
        where = self.sight(layout, None, self.constant_bits.view(torch.float32))
        table, ops = self.embed.weight + self.token_types.weight[0], where.ops
        embedded = functional.embedding(layout.tokens, table)
        states: Tensor = ops.add_norm(embedded, None, self.embed_norm)
        for layer in cast("list[Layer]", self.layers):  # the sum is normed after each block
            seen = layer.out(ops.attend(layer.qkv(states), where))
            states = ops.add_norm(states, seen, layer.attention_norm, keep=False)
            inner = layer.down(ops.gelu_linear(states, layer.up))
            states = ops.add_norm(states, inner, layer.ffn_norm, keep=False)
        return states


def alibi_slopes(heads: int) -> list[float]:
    """A geometric series; heads beyond a power of two take every second slope of the next one's.

    Source: arXiv:2108.12409.
    """
    series = 2 ** int(math.log2(heads))
    main = [8 * (i + 1) / series for i in range(series)]
    rest = [8 * (2 * i + 1) / (2 * series) for i in range(heads - series)]
    return [2.0**-exponent for exponent in main + rest]
