"""Draw training windows on the device: sample, mutate, find the longest ORF, tokenise.

Everything is vectorised and follows from (seed, step), so a resumed run draws what the
uninterrupted one would have drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from virnucpro.encoders.small import CODON_N, six_frames
from virnucpro.encoders.tokenizers import BASE_N, BASE_PAD, RESIDUE_PAD, RESIDUE_X, RESIDUES
from virnucpro.training.corpus import Corpus

_CODE = "KNKNTTTTRSRSIIMIQHQHPPPPRRRRLLLLEDEDAAAAGGGGVVVV*Y*YSSSS*CWCLFLF"


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch ready for the encoders.

    Attributes:
        bases: shape (n, L): each window on its ORF's strand, shifted into its frame.
        lengths: shape (n,), bases in each row.
        residues: shape (n, P): the ORF's protein.
        residue_lengths: shape (n,).
    """

    bases: Tensor
    lengths: Tensor
    residues: Tensor
    residue_lengths: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Sequencing errors and the like; every rate is per base.

    Attributes:
        substitutions: highest rate of a window; the rate is uniform below it.
        substituted_share: share of windows with substitutions at all.
        indels: highest rate of a window.
        indel_share: share of windows with insertions and deletions.
        unknown_share: share of windows with some bases read as N.
        converted_share: share of windows with every C read as T, as bisulfite leaves them.
    """

    substitutions: float = 0.03
    substituted_share: float = 0.7
    indels: float = 0.01
    indel_share: float = 0.25
    unknown_share: float = 0.01
    converted_share: float = 0.03


class WindowSampler:
    """Draws labelled windows from a corpus that lies on `device`."""

    def __init__(
        self, corpus: Corpus, weights: np.ndarray, device: torch.device, noise: Noise
    ) -> None:
        def place(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self.device, self.noise = device, noise
        self.bases, self.starts = place(corpus.bases), place(corpus.starts)
        self.ends = place(corpus.ends)
        first, last = corpus.group_bounds()
        self.first, self.span = place(first), place(last - first)
        self.cumulative = place(np.cumsum(weights / weights.sum()))
        self.target = place(np.array([g.target for g in corpus.groups]))
        self.random = torch.Generator(device=device)

    def draw(
        self, n: int, shortest: int, longest: int, seed: int
    ) -> tuple[Windows, Tensor, Tensor]:
        """Draw n windows of `shortest` to `longest` nt; returns windows, targets, groups."""
        self.random.manual_seed(seed)
        group = torch.searchsorted(self.cumulative, self._uniform(n)).clamp(max=len(self.first) - 1)
        at = self.first[group] + (self._uniform(n) * self.span[group]).long()
        record = torch.searchsorted(self.starts, at, right=True) - 1
        start, end = self.starts[record], self.ends[record]
        length = shortest + (self._uniform(n) * (longest - shortest + 1)).long()
        length = torch.minimum(length, end - start)
        begin = at - (self._uniform(n) * length).long()
        begin = torch.maximum(torch.minimum(begin, end - length), start)
        rows = self._mutate(self._cut(begin, end, length, longest), length)
        return orient(self._flip(rows, length), length), self.target[group], group

    def _uniform(self, *shape: int) -> Tensor:
        kind = torch.float64 if len(shape) == 1 else torch.float32
        return torch.rand(*shape, generator=self.random, device=self.device, dtype=kind)

    def _cut(self, begin: Tensor, end: Tensor, length: Tensor, width: int) -> Tensor:
        n = len(begin)
        rate = self._uniform(n) * self.noise.indels
        rate = rate * (self._uniform(n) < self.noise.indel_share)
        draw = self._uniform(n, width)
        rate = rate[:, None].float()
        jump = (draw < rate / 2).long() - (draw > 1 - rate / 2).long()
        place = torch.arange(width, device=self.device) + jump.cumsum(dim=1)
        at = torch.minimum(begin[:, None] + place.clamp(min=0), end[:, None] - 1)
        inside = torch.arange(width, device=self.device) < length[:, None]
        return torch.where(inside, self.bases[at].long(), BASE_PAD)

    def _mutate(self, rows: Tensor, length: Tensor) -> Tensor:
        n, width = rows.shape
        rate = self._uniform(n) * self.noise.substitutions
        rate = rate * (self._uniform(n) < self.noise.substituted_share)
        draw = self._uniform(n, width)
        step = 1 + (draw * 7919.0).long() % 3
        converted = (self._uniform(n) < self.noise.converted_share)[:, None]
        rows = torch.where(converted & (rows == 1), 3, rows)
        hit = (draw < rate[:, None]) & (rows < 4)
        rows = torch.where(hit, (rows + step) % 4, rows)
        lost = (self._uniform(n) < self.noise.unknown_share)[:, None]
        lost = lost & (draw > 0.98) & (rows < 4)
        return torch.where(lost, BASE_N, rows)

    def _flip(self, rows: Tensor, length: Tensor) -> Tensor:
        flip = (self._uniform(len(rows)) < 0.5)[:, None]
        return torch.where(flip, reverse_complement(rows, length), rows)


def reverse_complement(rows: Tensor, length: Tensor) -> Tensor:
    """The other strand of each row, left-aligned: shape (n, L)."""
    place = torch.arange(rows.shape[1], device=rows.device)
    turned = rows.gather(1, (length[:, None] - 1 - place).clamp(min=0))
    turned = torch.where(turned < 4, 3 - turned, turned)
    return torch.where(place < length[:, None], turned, BASE_PAD)


def longest_orf(rows: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The longest stop-free run of codons over six frames; ties go to F1..R3, leftmost.

    Args:
        rows: shape (n, L), bases.
        length: shape (n,).

    Returns:
        Frame 0..5, first codon and codon count of each row's run, each (n,).
    """
    strands = [rows, reverse_complement(rows, length)]
    ids = torch.cat([six_frames(strand, length)[0][:, :3] for strand in strands], dim=1)
    stops = torch.tensor([aa == "*" for aa in _CODE] + [False], device=rows.device)
    blocked = (ids < 0) | stops[ids.clamp(min=0)]
    place = torch.arange(ids.shape[2], device=rows.device)
    last = torch.where(blocked, place, -1).cummax(dim=2).values
    run = (place - last).flatten(1)
    cells = run.shape[1]
    best = (run * (cells + 1) - torch.arange(cells, device=rows.device)).argmax(dim=1)
    count = run.gather(1, best[:, None])[:, 0]
    frame = best // ids.shape[2]
    return frame, best % ids.shape[2] + 1 - count, count


def orient(rows: Tensor, length: Tensor) -> Windows:
    """Put each row on its longest ORF's strand and frame, and read off the protein."""
    frame, first, count = longest_orf(rows, length)
    rows = torch.where((frame >= 3)[:, None], reverse_complement(rows, length), rows)
    shift = frame % 3
    place = torch.arange(rows.shape[1], device=rows.device)
    length = length - shift
    rows = rows.gather(1, (place + shift[:, None]).clamp(max=rows.shape[1] - 1))
    rows = torch.where(place < length[:, None], rows, BASE_PAD)
    ids = six_frames(rows, length)[0][:, 0]
    table = [RESIDUES.find(aa) if aa != "*" else RESIDUE_X for aa in _CODE] + [RESIDUE_X]
    letters = torch.tensor(table, device=rows.device)
    place = torch.arange(ids.shape[1], device=rows.device)
    codons = ids.gather(1, (place + first[:, None]).clamp(max=ids.shape[1] - 1))
    inside = place < count[:, None]
    residues = torch.where(inside, letters[codons.clamp(0, CODON_N)], RESIDUE_PAD)
    return Windows(rows, length, residues, count)
