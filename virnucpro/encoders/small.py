"""The two small encoders of the bundled model: convolution towers with masked pooling.

The DNA encoder sees all six codon frames, the protein encoder the residues of the ORF. A stem
adds up one learned row for each (tap, letter) of a window of letters; residual blocks follow,
whose norms see one position at a time. Positions past the end of a sequence stay exactly zero, so
a vector does not depend on what else is in the batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from virnucpro.core.errors import ModelError
from virnucpro.core.files import atomic_write
from virnucpro.encoders.base import Encoder
from virnucpro.encoders.batches import Batch, PackedBatch
from virnucpro.encoders.tokenizers import BASE_PAD, RESIDUE_PAD, RESIDUES
from virnucpro.models.specs import EncoderSpec

CODON_N = 64
CODON_ROWS = 72
RESIDUE_ROWS = 24
_CPU_POSITIONS = 3072
_MOST = 8192  # of a size of a network; a damaged file must not ask for all memory
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
        sizes = (self.width, self.taps, self.stride, *self.dilations)
        if not all(type(n) is int and 0 < n <= _MOST for n in sizes) or len(self.dilations) > 64:
            raise ValueError(f"sizes must be whole numbers from 1 to {_MOST}")
        if type(self.hidden) is not int or not 0 <= self.hidden <= _MOST:
            raise ValueError(f"hidden must be a whole number from 0 to {_MOST}")
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


def rectangle(batch: Batch, pad_id: int) -> tuple[Tensor, Tensor]:
    """Tokens as a padded rectangle (n, longest) and lengths (n,), whatever the layout."""
    if not isinstance(batch, PackedBatch):
        return batch.tokens, batch.lengths
    starts = batch.cu_seqlens[:-1].long()
    lengths = batch.cu_seqlens[1:].long() - starts
    columns = torch.arange(batch.max_length, device=batch.tokens.device)
    inside = columns < lengths[:, None]
    where = (starts[:, None] + columns).clamp(max=len(batch.tokens) - 1)
    return torch.where(inside, batch.tokens[where], pad_id), lengths


def six_frames(bases: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Codon ids of the three frames of each strand.

    The reverse frames read the same codons backwards, complemented, so that codon p of frame f
    and codon `count - 1 - p` of frame f + 3 cover the same three bases.

    Args:
        bases: shape (n, L), 0..3 for A, C, G, T, anything larger for N or padding.
        lengths: shape (n,), bases in each row.

    Returns:
        Ids, shape (n, 6, P): 16 a + 4 b + c, 64 with an ambiguous base, -1 past the end;
        counts, shape (n, 6): codons in each frame.
    """
    n, width = bases.shape
    codons = -(-width // 3)
    padded = F.pad(bases, (0, 3 * codons + 2 - width), value=BASE_PAD)
    a, b, c = (padded[:, k : k + 3 * codons] for k in range(3))
    unclear = (a > 3) | (b > 3) | (c > 3)
    forward = torch.where(unclear, CODON_N, 16 * a + 4 * b + c)
    backward = torch.where(unclear, CODON_N, 63 - (16 * c + 4 * b + a))
    counts = (lengths[:, None] - torch.arange(3, device=bases.device)).clamp(min=0) // 3
    place = torch.arange(codons, device=bases.device)
    turned = (counts[:, :, None] - 1 - place).clamp(min=0)
    backward = backward.view(n, codons, 3).transpose(1, 2).gather(2, turned)
    ids = torch.cat([forward.view(n, codons, 3).transpose(1, 2), backward], dim=1)
    counts = torch.cat([counts, counts], dim=1)
    return torch.where(place < counts[:, :, None], ids, -1), counts


class _TowerEncoder(Encoder):
    """An encoder around one tower.

    Attributes:
        rows: rows of the tower for each sequence.
    """

    cpu_tokens = 131_072  # it splits a batch by itself; cores wait for each other at its end
    tower: Tower
    rows = 1

    def forward(self, batch: Batch) -> Tensor:
        """Embed each sequence: (n, dim) float32."""
        return self.embed(*rectangle(batch, self.pad_id))

    def embed(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Letters (n, L) with `lengths` (n,) to vectors (n, dim).

        A CPU takes sequences of like length together, few enough for its caches, and gives
        each core some of its own: cores that share every product wait for the slowest of them
        each time.
        """
        if letters.is_cuda or not len(letters):
            return self._embed(letters, lengths)
        order = torch.argsort(lengths, descending=True, stable=True)
        workers = 1 if torch.is_grad_enabled() else torch.get_num_threads()
        pieces = self._pieces(lengths[order].tolist(), workers)
        some = [order[first:last] for first, last in pieces]
        each = [(letters[rows, : max(1, int(lengths[rows[0]]))], lengths[rows]) for rows in some]
        return torch.cat(_spread(self._embed, each, workers))[torch.argsort(order)]

    def _pieces(self, sizes: list[int], workers: int) -> list[tuple[int, int]]:
        """Bounds of pieces of falling lengths, each padded to a size that the caches hold."""
        per_letter = self.rows / self.tower.config.stride
        total = per_letter * sum(sizes)
        rounds = max(1, math.ceil(total / (workers * _CPU_POSITIONS)))
        most = total / (workers * rounds)  # so that every worker gets as many pieces
        bounds, first = [], 0
        while first < len(sizes):
            fitting = int(most / (per_letter * max(1, sizes[first])) + 0.5)
            last = min(len(sizes), first + max(1, fitting))
            bounds.append((first, last))
            first = last
        return bounds

    def _embed(self, letters: Tensor, lengths: Tensor) -> Tensor:
        raise NotImplementedError


def _spread(
    embed: Callable[[Tensor, Tensor], Tensor], pieces: list[tuple[Tensor, Tensor]], workers: int
) -> list[Tensor]:
    """Vectors of each piece, in order; each worker computes with one thread."""
    if workers == 1 or len(pieces) == 1:
        return [embed(*piece) for piece in pieces]
    inference = torch.is_inference_mode_enabled()

    def alone(piece: tuple[Tensor, Tensor]) -> Tensor:
        with torch.inference_mode(inference), torch.no_grad():  # modes belong to a thread
            return embed(*piece)

    # The number of threads belongs to a thread too, but is the default of those started later.
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(alone, pieces))
    torch.set_num_threads(workers)
    return parts


class DnaTower(_TowerEncoder):
    """DNA encoder: one tower shared by the six codon frames; frame 0 is the ORF's own.

    The vector holds max and mean of frame 0, then the largest max and the mean of the others.
    """

    pad_id = BASE_PAD
    rows = 2  # six frames of a third of the letters

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.dim = 4 * config.width
        self.tower = Tower(config, CODON_ROWS, by_residue=True)

    def _embed(self, bases: Tensor, lengths: Tensor) -> Tensor:
        ids, counts = six_frames(bases, lengths)
        highest, mean = self.tower(ids.flatten(0, 1), counts.flatten())
        highest = highest.view(len(bases), 6, -1)
        mean = mean.view(len(bases), 6, -1)
        others = [highest[:, 1:].amax(dim=1), mean[:, 1:].mean(dim=1)]
        return torch.cat([highest[:, 0], mean[:, 0], *others], dim=1)


class ProteinTower(_TowerEncoder):
    """Protein encoder: a tower over residues; the vector holds max and mean."""

    pad_id = RESIDUE_PAD

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.dim = 2 * config.width
        self.tower = Tower(config, RESIDUE_ROWS, by_residue=False)

    def _embed(self, residues: Tensor, lengths: Tensor) -> Tensor:
        inside = torch.arange(residues.shape[1], device=residues.device) < lengths[:, None]
        return torch.cat(self.tower(torch.where(inside, residues, -1), lengths), dim=1)


TOWERS: dict[str, type[DnaTower] | type[ProteinTower]] = {
    "mini-dna": DnaTower,
    "mini-protein": ProteinTower,
}


def save_tower(kind: str, encoder: DnaTower | ProteinTower, path: Path) -> None:
    """Write an encoder as float16 safetensors that carry its shape."""
    config = {"kind": kind, **asdict(encoder.tower.config), "dim": encoder.dim}
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in encoder.state_dict().items()}
    with atomic_write(path) as file:
        # one entry: the order of several would change from file to file
        file.write(save(tensors, metadata={"tower": json.dumps(config)}))


def load_small(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Read an encoder of a model directory.

    Raises:
        ModelError: not a file that `save_tower` wrote, of another kind or width than `spec` says,
            or with numbers that are not finite.
    """
    try:
        with safe_open(spec.path, framework="pt") as file:
            config = json.loads((file.metadata() or {})["tower"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if (kind := config.pop("kind")) != spec.kind:
            raise ValueError(f"holds {kind!r:.40}, not {spec.kind}")
        config.pop("dim")
        config["dilations"] = tuple(config["dilations"])
        with torch.device("meta"):  # shapes are compared before memory is asked for
            encoder = TOWERS[spec.kind](TowerConfig(**config))
        if encoder.dim != spec.dim:
            raise ValueError(f"vectors have {encoder.dim} dimensions, not {spec.dim}")
        encoder.load_state_dict(tensors, assign=True)
        encoder.to(device=device, dtype=dtype)
        for name, tensor in encoder.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} has values that are not finite")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError,
            AttributeError) as error:  # fmt: skip
        problem = f"{error!s:.300}"
        raise ModelError(f"{spec.path}: not weights of the bundled kind ({problem})") from error
    return encoder
