"""Chunks -> ORFs: six frames of a whole block of chunks at once.

Room 1 (FASTA -> chunks -> ORFs). Two policies choose what a frame gives: `open-frame`, the rule
of the published models, and `longest`, which leaves no readable chunk without an ORF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.records import FRAMES, Chunk, Orf
from virnucpro.sequences.block import Block, Runs, longest_runs, open_frames

PolicyName = Literal["open-frame", "longest"]

# Larger blocks leave the processor's caches, smaller ones pay for calls (nt).
_BLOCK_NT = 1 << 19
# A shorter run is kept only where the chunk has nothing better (codons).
_SHORTEST_RUN = 5


@dataclass(frozen=True, slots=True)
class OrfPolicy:
    """Which ORFs a chunk gives; part of the model, since it decides what the encoders see.

    Attributes:
        name: `open-frame` keeps each frame without a stop codon over the whole chunk;
            `longest` takes from each frame its longest run without a stop and with at most
            half `X` (of equals the first in reading direction).
        keep: how many of a chunk's six frames are kept, the longest ones (of equals the first
            in the order of `FRAMES`).
    """

    name: PolicyName
    keep: int = 6

    def __post_init__(self) -> None:
        if self.name not in get_args(PolicyName):
            raise ValueError(f"ORF policy {self.name!r} is none of {get_args(PolicyName)}")
        if not 1 <= self.keep <= len(FRAMES):
            raise ValueError(f"an ORF policy keeps 1 to 6 frames, got {self.keep}")


def find_orfs(chunks: Sequence[Chunk], policy: OrfPolicy) -> list[list[Orf]]:
    """The ORFs of each chunk.

    Letters are read in upper case, U as T. A codon with an ambiguous base is `X` and keeps its
    place; an ORF of nothing but `X` is none. Under `open-frame` the DNA is one base longer than
    the codons where the chunk has it (the trained weights expect it); under `longest` it is the
    whole strand from the frame's first base on, so that it stays in codon phase. Under `longest`
    a run shorter than 5 codons is kept only if no frame of the chunk has one that long, so every
    chunk with 60 unambiguous bases in a row gives an ORF.

    Returns:
        One list a chunk, in the order given; ORFs in the order of `FRAMES`.

    Source:
        VirNucPro units.py (six frames, NCBI table 1, slice of 3 x protein + 1).

    >>> chunk = Chunk("c_chunk_1", "ATGNNNGCTGCTA")
    >>> orf = find_orfs([chunk], OrfPolicy("open-frame"))[0][0]
    >>> orf.orf_id, orf.protein, orf.dna
    ('c_chunk_1F1', 'MXAA', 'ATGNNNGCTGCTA')
    """
    found: list[list[Orf]] = []
    for part in _parts(chunks):
        block = Block.of([chunk.sequence for chunk in part])
        starts, lengths = open_frames(block) if policy.name == "open-frame" else longest_runs(block)
        kept = _kept(lengths, policy)
        found.extend(_read(part, block, (starts, np.where(kept, lengths, 0)), policy))
    return found


def _parts(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    first = letters = 0
    for i, chunk in enumerate(chunks):
        if letters and letters + len(chunk.sequence) > _BLOCK_NT:
            yield chunks[first:i]
            first, letters = i, 0
        letters += len(chunk.sequence)
    if first < len(chunks):
        yield chunks[first:]


def _kept(lengths: NDArray[np.int64], policy: OrfPolicy) -> NDArray[np.bool_]:
    """Which frames a chunk keeps, given its runs (codons): shape (chunks, 6)."""
    kept = lengths > 0
    if policy.name == "longest":
        long_enough = lengths >= _SHORTEST_RUN
        kept = np.where(long_enough.any(axis=1, keepdims=True), long_enough, kept)
    if policy.keep < len(FRAMES):
        order = np.argsort(-lengths, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(len(FRAMES))[None, :], axis=1)
        kept &= rank < policy.keep
    return kept


def _read(part: Sequence[Chunk], block: Block, runs: Runs, policy: OrfPolicy) -> list[list[Orf]]:
    """Spell out each run of more than 0 codons, one list a chunk."""
    starts, lengths = runs
    rows, frames = np.nonzero(lengths)
    columns = (rows, frames, starts[rows, frames], lengths[rows, frames])
    is_open = policy.name == "open-frame"
    orfs: list[list[Orf]] = [[] for _ in part]
    sizes = block.lengths.tolist()
    for row, frame, first, codons in zip(*(c.tolist() for c in columns), strict=True):
        protein = block.protein(row, frame, first, codons)
        size = sizes[row]
        end = first + 3 * codons
        # One base more than the codons, as VirNucPro's units.py: the weights are trained on it.
        bounds = (first, min(end + 1, size)) if is_open else (frame % 3, size)
        dna = block.dna(row, frame, *bounds)
        start, end = (first, end) if frame < 3 else (size - end, size - first)
        orf_id = part[row].chunk_id + FRAMES[frame]
        orfs[row].append(Orf(orf_id, protein.decode("ascii"), dna.decode("ascii"), start, end))
    return orfs
