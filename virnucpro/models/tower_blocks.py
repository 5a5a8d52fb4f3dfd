"""Parts of the bundled model's towers: stem, residual blocks, pool.

Room 4 (batch -> one vector per ORF). The stem adds up one learned row for each (tap, letter) of
a window of letters; residual blocks follow, whose norms see one position at a time. Positions
past the end of a sequence stay exactly zero, so a vector does not depend on what else is in the
batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from virnucpro.tokens.mini import RESIDUES

_CODE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"
_RESIDUE_OF_CODON = torch.tensor([RESIDUES.find(aa) if aa != "*" else 21 for aa in _CODE])


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """Shape of one tower.

    Attributes:
        width: channels.
        taps: letters (codons or residues) that one stem position sees.
        stride: letters between two stem positions.
        dilations: one residual block each; the spacing of its three taps.
        hidden: channels inside a block; 0 means `width`.
    """

    width: int
    taps: int = 9
    stride: int = 3
    dilations: tuple[int, ...] = (1, 1, 2, 4)
    hidden: int = 0

    def __post_init__(self) -> None:
        if self.taps % self.stride or (self.taps // self.stride) % 2 == 0:
            raise ValueError(f"taps must be an odd multiple of stride: {self.taps}, {self.stride}")


class Stem(nn.Module):
    """Sum over `taps` letters of one learned row for each (tap, letter); a strided convolution.

    A codon's row is its own plus that of its residue, so that what one codon teaches its
    synonyms learn too.
    """

    def __init__(self, config: TowerConfig, rows: int, by_residue: bool) -> None:
        super().__init__()
        self.taps, self.stride, self.rows = config.taps, config.stride, rows
        scale = config.taps**-0.5
        self.weight = nn.Parameter(torch.randn(config.taps, rows, config.width) * scale)
        self.bias = nn.Parameter(torch.zeros(config.width))
        self.residue: nn.Parameter | None = None
        if by_residue:
            self.residue = nn.Parameter(torch.randn(config.taps, 22, config.width) * scale)
        self.register_buffer("of_codon", _RESIDUE_OF_CODON.clone(), persistent=False)
        self.of_codon: Tensor

    def table(self) -> Tensor:
        """Rows for each tap and letter: shape (taps, rows, width)."""
        if self.residue is None:
            return self.weight
        shared = self.residue[:, self.of_codon]
        return self.weight + F.pad(shared, (0, 0, 0, self.rows - shared.shape[1]))

    def forward(self, ids: Tensor) -> Tensor:
        """Letters (n, P), -1 for none, to positions (n, ceil(P / stride), width)."""
        left = (self.taps - self.stride) // 2
        places = -(-ids.shape[1] // self.stride)
        right = (places - 1) * self.stride + self.taps - left - ids.shape[1]
        ids = F.pad(ids, (left, right), value=-1)
        return self._by_product(ids, places) if ids.is_cuda else self._by_lookup(ids, places)

    def _by_lookup(self, ids: Tensor, places: int) -> Tensor:
        table = F.pad(self.table(), (0, 0, 0, 1))
        rows = table.shape[1]
        offsets = torch.arange(self.taps, device=ids.device) * rows
        index = torch.where(ids < 0, rows - 1, ids).unfold(1, self.taps, self.stride)
        index = (index + offsets).reshape(-1, self.taps)
        out = F.embedding_bag(index, table.reshape(-1, table.shape[2]), mode="sum")
        return out.view(len(ids), places, -1) + self.bias

    def _by_product(self, ids: Tensor, places: int) -> Tensor:
        """The same sum as a product with one-hot letters, whose gradient needs no atomics."""
        table = self.table()
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
        """Shape (n, Q, width) to the same; `mask` (n, Q, 1) is 1 inside a sequence, else 0.

        Without gradients on a CPU the result takes the place of x; outside of a sequence it is
        then anything finite.
        """
        if not (torch.is_grad_enabled() or x.is_cuda):
            return self._in_place(x, mask)
        h = self.norm(x).to(x.dtype) * mask
        h = F.relu(self._convolve(h))
        return torch.addcmul(x, self.down(h * h).to(x.dtype), mask)

    def _in_place(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self._convolve(self.norm(x).mul_(mask)).relu_()
        h = h.mul_(h).reshape(-1, h.shape[2])
        rows = x.view(-1, x.shape[2]).add_(self.down.bias)
        return rows.addmm_(h, self.down.weight.t()).view_as(x)

    def _convolve(self, h: Tensor) -> Tensor:
        return self.up(h[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, 0]  # type: ignore[no-any-return]


class Pool(nn.Module):
    """Last norm, then the largest and the mean value of each channel inside a sequence."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Shape (n, Q, width), mask (n, Q, 1) to max and mean, both (n, width) float32."""
        x = self.norm(x).float()
        keep = mask.float()
        highest = torch.where(mask > 0, x, -30.0).amax(dim=1)
        mean = (x * keep).sum(dim=1) / keep.sum(dim=1).clamp(min=1)
        return highest, mean


class Tower(nn.Module):
    """Stem, blocks, pool."""

    def __init__(self, config: TowerConfig, rows: int, by_residue: bool) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config, rows, by_residue)
        self.blocks = nn.ModuleList(Block(config, d) for d in config.dilations)
        self.pool = Pool(config.width)

    def forward(self, ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Letters (n, P) with `counts` (n,) each to max and mean, both (n, width) float32."""
        x = self.stem(ids)
        places = torch.arange(x.shape[1], device=x.device)
        inside = places * self.config.stride < counts[:, None]
        mask = inside[:, :, None].to(x.dtype)
        x = x * mask
        for block in self.blocks:
            x = block(x, mask)
        highest, mean = self.pool(x, mask)
        return highest, mean
