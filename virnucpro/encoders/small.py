"""The networks of `small_cpu` as torch trains them and a GPU runs them.

Positions past the end of a sequence stay exactly zero, so a vector depends on no other one.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.files import atomic_write
from virnucpro.encoders import small_cpu
from virnucpro.encoders.base import Encoder, Rectangle
from virnucpro.encoders.small_cpu import TowerConfig, read_tower
from virnucpro.encoders.tokenizers import BASE_PAD, RESIDUE_PAD
from virnucpro.models.specs import EncoderSpec


class Stem(nn.Module):
    """Sum over `taps` letters of a learned row each; a codon's is its own plus its residue's."""

    def __init__(self, config: TowerConfig, rows: int, by_residue: bool) -> None:
        super().__init__()
        self.taps, self.stride, self.rows = config.taps, config.stride, rows
        scale = config.taps**-0.5
        self.weight = nn.Parameter(torch.randn(config.taps, rows, config.width) * scale)
        self.bias = nn.Parameter(torch.zeros(config.width))
        shape = config.taps, small_cpu.RESIDUE_ROWS, config.width
        self.residue = nn.Parameter(torch.randn(shape) * scale) if by_residue else None
        self.register_buffer(
            "of_codon", torch.from_numpy(small_cpu.RESIDUE_OF_CODON), persistent=False
        )
        self.of_codon: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        """Letters (n, P), -1 for none, to positions (n, ceil(P / stride), width)."""
        left = (self.taps - self.stride) // 2
        places = -(-ids.shape[1] // self.stride)
        right = (places - 1) * self.stride + self.taps - left - ids.shape[1]
        ids = F.pad(ids, (left, right), value=-1)
        table: Tensor = self.weight  # (taps, rows, width)
        if self.residue is not None:
            shared = self.residue[:, self.of_codon]
            table = table + F.pad(shared, (0, 0, 0, self.rows - shared.shape[1]))
        compute = self._by_product if ids.is_cuda else self._by_lookup
        return compute(ids, table, places)

    def _by_lookup(self, ids: Tensor, table: Tensor, places: int) -> Tensor:
        table = F.pad(table, (0, 0, 0, 1))
        rows = table.shape[1]
        offsets = torch.arange(self.taps, device=ids.device) * rows
        index = torch.where(ids < 0, rows - 1, ids).unfold(1, self.taps, self.stride)
        index = (index + offsets).reshape(-1, self.taps)
        out = F.embedding_bag(index, table.reshape(-1, table.shape[2]), mode="sum")
        return out.view(len(ids), places, -1) + self.bias

    def _by_product(self, ids: Tensor, table: Tensor, places: int) -> Tensor:
        """The same sum as a product with one-hot letters, whose gradient needs no atomics."""
        width, spans = table.shape[2], self.taps // self.stride
        mixed = torch.is_autocast_enabled("cuda")
        kind = torch.get_autocast_dtype("cuda") if mixed else table.dtype
        hot = (ids[:, :, None] == torch.arange(self.rows, device=ids.device)).to(kind)
        hot = hot.view(len(ids), places + spans - 1, self.stride * self.rows)
        weight = table.reshape(spans, self.stride * self.rows, width).permute(1, 0, 2)
        parts = hot @ weight.reshape(self.stride * self.rows, spans * width).to(kind)
        total = self.bias.to(kind).expand(len(ids), places, width)
        for k in range(spans):
            total = total + parts[:, k : k + places, k * width : (k + 1) * width]
        return total


class Block(nn.Module):
    """Residual block: norm per position, 3-wide convolution, squared ReLU, linear map."""

    def __init__(self, config: TowerConfig, dilation: int) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden or config.width
        self.dilation = dilation
        self.norm = nn.LayerNorm(width)
        spread = (1, dilation)
        self.up = nn.Conv2d(width, hidden, (1, 3), padding=(0, dilation), dilation=spread)
        self.down = nn.Linear(hidden, width)
        nn.init.normal_(self.up.weight, std=(3 * width) ** -0.5)
        nn.init.normal_(self.down.weight, std=0.5 * hidden**-0.5)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shape (n, Q, width) to the same; `mask` (n, Q, 1) is 1 inside a sequence, else 0."""
        h = self.norm(x).to(x.dtype) * mask
        h = F.relu(self.up(h[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, 0])
        return torch.addcmul(x, self.down(h * h).to(x.dtype), mask)


class Pool(nn.Module):
    """Last norm, then the largest and the mean value of each channel inside a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shape (n, Q, width), mask (n, Q, 1) to max and mean, both (n, width) float32."""
        x = self.norm(x).float()
        keep = mask.float()
        highest = torch.where(mask > 0, x, small_cpu.LOWEST).amax(dim=1)
        mean = (x * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
        return highest, mean


class TowerEncoder(Encoder):
    """A tower of stem, blocks and pool over letters."""

    cpu_tokens = 131_072  # of many short rows at once

    def __init__(self, kind: str, config: TowerConfig) -> None:
        super().__init__()
        self.kind, self.config, self._is_dna = kind, config, kind == "mini-dna"
        self.pad_id = BASE_PAD if self._is_dna else RESIDUE_PAD
        self.dim = config.dim(kind)
        stem = Stem(config, small_cpu.ROWS[kind], by_residue=self._is_dna)
        blocks = nn.ModuleList(Block(config, dilation) for dilation in config.dilations)
        self.tower = nn.ModuleDict({"stem": stem, "blocks": blocks, "pool": Pool(config.width)})

    def encode(self, layout: Rectangle) -> Tensor:
        """Vectors of the rows of a rectangle: (n, dim) float32."""
        return self.embed(layout.rows(layout.tokens), layout.lengths)

    def embed(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Letters (n, L) with `lengths` (n,) to vectors (n, dim)."""
        how = self._pooled, self._is_dna
        found: Tensor = small_cpu.merged(torch, *how, letters, lengths, device=letters.device)
        return found

    def _pooled(self, ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Letters (n, P) with `counts` (n,) each to max and mean, both (n, width) float32."""
        x = self.tower["stem"](ids)
        places = torch.arange(x.shape[1], device=x.device)
        mask = (places * self.config.stride < counts[:, None])[:, :, None].to(x.dtype)
        x = x * mask
        for block in cast("nn.ModuleList", self.tower["blocks"]):
            x = block(x, mask)
        both: tuple[Tensor, Tensor] = self.tower["pool"](x, mask)
        return both


def save_tower(encoder: TowerEncoder, path: Path) -> None:
    """Write an encoder as float16 safetensors that carry its shape."""
    config = {"kind": encoder.kind, **asdict(encoder.config), "dim": encoder.dim}
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in encoder.state_dict().items()}
    with atomic_write(path) as file:
        # one entry: the order of several would change from file to file
        file.write(save(tensors, metadata={"tower": json.dumps(config)}))


def load_small(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> TowerEncoder:
    """Read an encoder of a model directory; errors as for `read_tower`."""
    config, tensors = read_tower(spec)
    encoder = TowerEncoder(spec.kind, config)
    encoder.tower.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
    return encoder.to(device=device, dtype=dtype)
