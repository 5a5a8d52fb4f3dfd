"""Chunks -> ORFs: six frames of a whole block of chunks at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.config import ORF_POLICIES, PolicyName
from virnucpro.core.records import FRAMES
from virnucpro.sequences.block import Block, longest_runs, open_frames

# A shorter run is kept only where the chunk has nothing better (codons).
_SHORTEST_RUN = 5


@dataclass(frozen=True, slots=True)
class Orfs:
    """ORFs of some chunks, column by column: n rows in the order of chunks, then of `FRAMES`."""

    chunk: NDArray[np.int64]  # index of each ORF's chunk among those given, shape (n,), int64
    frame: NDArray[np.uint8]  # its frame as an index of `FRAMES`, shape (n,), uint8
    # first base of the translated part on the chunk's forward strand, 0-based, (n,)
    start: NDArray[np.int64]
    end: NDArray[np.int64]  # one past its last base on the forward strand, shape (n,)
    dna: list[bytes]  # the DNA on the ORF's strand that goes to the DNA encoder (nt, upper case)
    protein: list[bytes]  # its translation; an ambiguous codon is `X` (aa)

    def __len__(self) -> int:
        return len(self.chunk)


@dataclass(frozen=True, slots=True)
class OrfPolicy:
    """Which ORFs a chunk gives; part of the model, since it decides what the encoders see."""

    # `open-frame` keeps each frame without a stop codon over the whole chunk; `longest` takes from
    # each frame its longest run without a stop and without three `X` in a row (of equals the first
    # in reading direction)
    name: PolicyName
    # how many of a chunk's six frames are kept, the longest ones; of equals those whose protein
    # comes first in the alphabet, so that both strands keep the same
    keep: int = 6

    def __post_init__(self) -> None:
        if self.name not in ORF_POLICIES:
            raise ValueError(f"ORF policy {self.name!r} is none of {ORF_POLICIES}")
        if not 1 <= self.keep <= len(FRAMES):
            raise ValueError(f"an ORF policy keeps 1 to 6 frames, got {self.keep}")


def find_orfs(chunks: Sequence[str], policy: OrfPolicy) -> Orfs:
    """The ORFs of some chunks; over a thousand at a time leave the processor's caches.

    Letters are read in upper case, U as T. A codon with an ambiguous base is `X` and keeps its
    place; an ORF of nothing but `X` is none. Under `open-frame` the DNA is one base longer than
    the codons where the chunk has it (the trained weights expect it); under `longest` it is the
    whole strand from the frame's first base on, so that it stays in codon phase, and a chunk and
    its reverse complement give the same ORFs. Under `longest` a run shorter than 5 codons is kept
    only if no frame of the chunk has one that long, so every chunk with 60 unambiguous bases in a
    row gives an ORF.

    >>> orfs = find_orfs(["ATGNNNGCTGCTA"], OrfPolicy("open-frame"))
    >>> FRAMES[orfs.frame[0]], orfs.protein[0], orfs.dna[0]
    ('F1', b'MXAA', b'ATGNNNGCTGCTA')
    """
    if not chunks:
        none = np.empty(0, dtype=np.int64)
        return Orfs(none, none.astype(np.uint8), none, none, [], [])
    is_open = policy.name == "open-frame"
    block = Block.of(chunks)
    starts, lengths = open_frames(block) if is_open else longest_runs(block)
    rows, frames = np.nonzero(np.where(_kept(block, starts, lengths, policy), lengths, 0))
    first = starts[rows, frames]
    codons = lengths[rows, frames]
    last = first + 3 * codons
    size = block.lengths[rows]
    if is_open:
        # One base more than the codons, as VirNucPro's units.py: the weights expect it.
        dna_first, dna_last = first, np.minimum(last + 1, size)
    else:
        dna_first, dna_last = frames % 3, size
    dna, protein = list[bytes](), list[bytes]()
    for row, frame, begin, many, left, right in zip(
        *(column.tolist() for column in (rows, frames, first, codons, dna_first, dna_last)),
        strict=True,
    ):
        protein.append(block.protein(row, frame, begin, many))
        dna.append(block.dna(row, frame, left, right))
    is_forward = frames < 3
    start = np.where(is_forward, first, size - last)
    end = np.where(is_forward, last, size - first)
    return Orfs(rows, frames.astype(np.uint8), start, end, dna, protein)


def _kept(
    block: Block, starts: NDArray[np.int64], lengths: NDArray[np.int64], policy: OrfPolicy
) -> NDArray[np.bool_]:
    """Which frames a chunk keeps, given its runs (codons): shape (chunks, 6)."""
    kept = lengths > 0
    if policy.name == "longest":
        long_enough = lengths >= _SHORTEST_RUN
        kept = np.where(long_enough.any(axis=1, keepdims=True), long_enough, kept)
    if policy.keep == len(FRAMES):
        return kept
    ranked = -np.sort(-lengths, axis=1)
    least, next_best = ranked[:, policy.keep - 1], ranked[:, policy.keep]
    kept &= lengths >= least[:, None]
    for row in np.flatnonzero((least == next_best) & (least > 0)).tolist():

        def content(frame: int, row: int = row) -> tuple[int, bytes, bytes]:
            codons = int(lengths[row, frame])
            protein = block.protein(row, frame, int(starts[row, frame]), codons)
            return -codons, protein, block.dna(row, frame, frame % 3, int(block.lengths[row]))

        for frame in sorted(range(len(FRAMES)), key=content)[policy.keep :]:
            kept[row, frame] = False
    return kept
