"""Draw training windows on the device: sample, mutate, find the longest ORF, tokenise."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from virnucpro.encoders.small_cpu import CODE, CODON_N, six_frames
from virnucpro.encoders.tokenizers import BASE_N, BASE_PAD, RESIDUE_PAD, RESIDUE_X, RESIDUES
from virnucpro.training.corpus import VIRUS, Corpus, adapters
from virnucpro.training.jobs import Noise

_IS_STOP = [aa == "*" for aa in CODE] + [False]
_ADAPTER_TAILS, _LONGEST_TAIL = 500, 500
_MOST_MASKED = 0.5  # of a window
_RESIDUE = [RESIDUES.find(aa) if aa != "*" else RESIDUE_X for aa in CODE] + [RESIDUE_X]


class Windows(NamedTuple):
    """A batch ready for the encoders."""

    bases: Tensor  # shape (n, L): each window on its ORF's strand, shifted into its frame
    lengths: Tensor  # shape (n,), bases in each row
    residues: Tensor  # shape (n, P): the ORF's protein
    residue_lengths: Tensor  # shape (n,)


class WindowSampler:
    """Draws labelled windows on a device; `weights` (groups,) says how often each group."""

    def __init__(
        self, corpus: Corpus, weights: NDArray[np.float64], device: torch.device, noise: Noise
    ) -> None:
        span = corpus.group_nt
        tails = adapters(np.random.default_rng(0), _ADAPTER_TAILS, _LONGEST_TAIL)
        arrays = (
            corpus.bases, corpus.starts, corpus.ends, np.cumsum(span) - span, span,
            np.cumsum(weights / weights.sum()), corpus.targets, tails,
        )  # fmt: skip
        placed = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays]
        self.bases, self.starts, self.ends, self.first, self.span = placed[:5]
        self.cumulative, self.target, self.adapters = placed[5:]
        self.device, self.noise = device, noise
        self.random = torch.Generator(device=device)

    def draw(
        self, n: int, shortest: int, longest: int, seed: int
    ) -> tuple[Windows, Tensor, Tensor]:
        """Draw n windows of `shortest` to `longest` nt; returns windows, targets, groups.

        Each is cut with insertions and deletions, runs into adapters, gets substitutions,
        conversions, unknown bases and runs of N, as the noise says.
        """
        self.random.manual_seed(seed)
        group = torch.searchsorted(self.cumulative, self._uniform(n)).clamp(max=len(self.first) - 1)
        at = self.first[group] + (self._uniform(n) * self.span[group]).long()
        record = torch.searchsorted(self.starts, at, right=True) - 1
        start, end = self.starts[record], self.ends[record]
        length = shortest + (self._uniform(n) * (longest - shortest + 1)).long()
        length = torch.minimum(length, end - start)
        begin = at - (self._uniform(n) * length).long()
        begin = torch.maximum(torch.minimum(begin, end - length), start)
        column = torch.arange(longest, device=self.device)
        inside = column < length[:, None]

        noise = self.noise
        rate = (self._uniform(n)[:, None] * noise.indels * self._some(n, noise.indel_share)).float()
        draw = self._uniform(n, longest)
        jump = (draw < rate / 2).long() - (draw > 1 - rate / 2).long()
        place = (column + jump.cumsum(dim=1)).clamp(min=0)
        at = torch.minimum(begin[:, None] + place, end[:, None] - 1)
        rows = torch.where(inside, self.bases[at].long(), BASE_PAD)

        if noise.adapter_share:  # viral inserts hold at least half
            insert = self._uniform(n)
            viral = self.target[group] == VIRUS
            insert = (torch.where(viral, 0.5 + 0.5 * insert, insert) * length).long()[:, None]
            which = (self._uniform(n) * len(self.adapters)).long()[:, None]
            tail = self.adapters[which, (column - insert).clamp(0, self.adapters.shape[1] - 1)]
            hit = self._some(n, noise.adapter_share) & (column >= insert) & inside
            rows = torch.where(hit, tail.long(), rows)

        rows = torch.where(self._some(n, noise.converted_share) & (rows == 1), 3, rows)
        rate = self._uniform(n)[:, None] * noise.substitutions
        draw = self._uniform(n, longest)
        hit = (draw < rate) & self._some(n, noise.substituted_share) & (rows < 4)
        rows = torch.where(hit, (rows + 1 + (draw * 7919.0).long() % 3) % 4, rows)
        lost = self._some(n, noise.unknown_share) & (draw > 0.98) & (rows < 4)
        rows = torch.where(lost, BASE_N, rows)

        if noise.masked_share:  # one to three runs; one of four lies at each end
            runs = 1 + (self._uniform(n) * 3).long()
            runs *= self._some(n, noise.masked_share)[:, 0]
            for k in range(3):
                size = (self._uniform(n) * _MOST_MASKED * length / runs.clamp(min=1)).long()
                first = ((2 * self._uniform(n) - 0.5).clamp(0, 1) * (length - size)).long()
                masked = (column >= first[:, None]) & (column < (first + size)[:, None])
                rows = torch.where(masked & (k < runs)[:, None], BASE_N, rows)

        return orient(rows, length), self.target[group], group

    def _some(self, n: int, share: float) -> Tensor:
        """Whether each of n windows is among a share of them, (n, 1)."""
        return (self._uniform(n) < share)[:, None]

    def _uniform(self, *shape: int) -> Tensor:
        kind = torch.float64 if len(shape) == 1 else torch.float32
        return torch.rand(*shape, generator=self.random, device=self.device, dtype=kind)


def orient(rows: Tensor, length: Tensor) -> Windows:
    """Rows (n, L) of `length` (n,) on their longest ORF's strand and frame, and its protein."""
    device = rows.device
    place = torch.arange(rows.shape[1], device=device)
    turned = rows.gather(1, (length[:, None] - 1 - place).clamp(min=0))
    turned = torch.where(turned < 4, 3 - turned, turned)
    turned = torch.where(place < length[:, None], turned, BASE_PAD)
    strands = [six_frames(torch, s, length, device=device)[0][:, :3] for s in (rows, turned)]
    ids = torch.cat(strands, dim=1)
    stops = torch.tensor(_IS_STOP, device=rows.device)
    unclear = F.pad((ids < 0) | (ids == CODON_N), (1, 1), value=True)
    gap = unclear[..., :-2] & unclear[..., 1:-1] & unclear[..., 2:]
    blocked = (ids < 0) | gap | stops[ids.clamp(min=0)]
    codons = torch.arange(ids.shape[2], device=rows.device)
    run = (codons - torch.where(blocked, codons, -1).cummax(dim=2).values).flatten(1)
    cells = run.shape[1]
    best = (run * (cells + 1) - torch.arange(cells, device=rows.device)).argmax(dim=1)
    count = run.gather(1, best[:, None])[:, 0]
    frame, first = best // len(codons), best % len(codons) + 1 - count

    rows = torch.where((frame >= 3)[:, None], turned, rows)
    shift = frame % 3
    length = length - shift
    rows = rows.gather(1, (place + shift[:, None]).clamp(max=rows.shape[1] - 1))
    rows = torch.where(place < length[:, None], rows, BASE_PAD)
    ids = six_frames(torch, rows, length, device=device)[0][:, 0]
    letters = torch.tensor(_RESIDUE, device=rows.device)
    place = torch.arange(ids.shape[1], device=rows.device)
    ids = ids.gather(1, (place + first[:, None]).clamp(max=ids.shape[1] - 1))
    residues = torch.where(place < count[:, None], letters[ids.clamp(0, CODON_N)], RESIDUE_PAD)
    return Windows(rows, length, residues, count)


def oriented(bases: NDArray[np.uint8], device: torch.device) -> Windows:
    """Windows of one length, shape (n, L), on `device`."""
    rows = torch.from_numpy(bases.astype(np.int64)).to(device)
    return orient(rows, torch.full((len(rows),), rows.shape[1], device=device))
