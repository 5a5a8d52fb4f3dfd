"""The two small encoders of the bundled model: convolution towers with masked pooling.

Room 4 (batch -> one vector per ORF). The DNA encoder sees all six codon frames, the protein
encoder the residues of the ORF.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from virnucpro.batches.collate import Batch, PackedBatch
from virnucpro.core.errors import ModelError
from virnucpro.core.files import atomic_write
from virnucpro.core.text import clipped, shown
from virnucpro.models.base import Encoder
from virnucpro.models.specs import EncoderSpec
from virnucpro.models.tower_blocks import Tower, TowerConfig
from virnucpro.tokens.mini import BASE_PAD, RESIDUE_PAD

CODON_N = 64
CODON_ROWS = 72
RESIDUE_ROWS = 24
_CPU_POSITIONS = 3072


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


_KINDS: dict[str, type[DnaTower] | type[ProteinTower]] = {
    "mini-dna": DnaTower,
    "mini-protein": ProteinTower,
}


def save_tower(kind: str, encoder: DnaTower | ProteinTower, path: Path) -> dict[str, object]:
    """Write an encoder as float16 safetensors that carry its shape; returns that shape."""
    config = {**asdict(encoder.tower.config), "dim": encoder.dim}
    tensors = {k: v.detach().half().cpu().contiguous() for k, v in encoder.state_dict().items()}
    with atomic_write(path) as file:
        # one entry: the order of several would change from file to file
        file.write(save(tensors, metadata={"tower": json.dumps({"kind": kind, **config})}))
    return config


def load_mini(spec: EncoderSpec, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Read an encoder of a model directory.

    Raises:
        ModelError: not a file that `save_tower` wrote, or of another kind than `spec` says.
    """
    try:
        with safe_open(spec.path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(metadata["tower"])
        if (kind := config.pop("kind")) != spec.kind:
            raise ValueError(f"holds {shown(kind)}, not {spec.kind!r}")
        config.pop("dim")
        config["dilations"] = tuple(config["dilations"])
        encoder = _KINDS[spec.kind](TowerConfig(**config))
        encoder.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{spec.path}: not weights of the bundled kind ({clipped(error)})"
        ) from error
    return encoder.to(device=device, dtype=dtype)
