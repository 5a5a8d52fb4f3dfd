"""Stop-free runs in the six frames of many chunks at once.

Room 1 (FASTA -> chunks -> ORFs). The chunks of a block lie end to end with separator letters
between them: a codon that would reach into the next chunk holds a separator, so it reads `X` and
can never be a stop. Work per codon is a table look-up; Python loops only over results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.sequences.codons import (
    amino_acids,
    codon_numbers,
    is_unambiguous,
    normalise,
    reverse_complement,
    stop_codons,
)

# Four letters, so that a frame's border before its first codon lies behind the previous chunk's
# last border: the borders of all chunks are in order.
_SEPARATOR = "\n" * 4
# A run's place travels in the low half of a number and its length in the high half: one maximum
# then settles both.
_HALF = 32
_LOW = (1 << _HALF) - 1

Runs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks end to end. Frames are numbered as `FRAMES`: 0 to 2 forward, 3 to 5 reverse.

    Attributes:
        letters: normalised letters of all chunks with separators after each.
        numbers: codon number at each base, shape (len(letters) - 2,).
        starts: first base of each chunk in `letters`, shape (n,).
        lengths: bases of each chunk, shape (n,).
    """

    letters: bytes
    numbers: bytes
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequence[str]) -> Block:
        """Lay sequences end to end."""
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        stride = lengths + len(_SEPARATOR)
        letters = normalise(_SEPARATOR.join([*sequences, ""]))
        return cls(letters, codon_numbers(letters), np.cumsum(stride) - stride, lengths)

    def codons(self) -> NDArray[np.int64]:
        """Whole codons in each frame, shape (n, 6)."""
        offsets = np.array([0, 1, 2, 0, 1, 2])
        codons: NDArray[np.int64] = np.maximum(self.lengths[:, None] - offsets, 0) // 3
        return codons

    def has_ambiguity(self) -> NDArray[np.bool_]:
        """Which chunks hold a letter other than A, C, G, T: shape (n,)."""
        odd = ~is_unambiguous(self.letters)
        counts = np.add.reduceat(odd, self.starts, dtype=np.int64)
        return np.greater(counts, len(_SEPARATOR))

    def gaps(self) -> NDArray[np.int64]:
        """Places of codons between two others of their frame, all three with ambiguous letters.

        What lies outside of a chunk counts as ambiguous.
        """
        if not self.letters.translate(None, b"ACGT\n"):
            return np.empty(0, dtype=np.int64)
        odd = np.frombuffer(self.letters, dtype=np.uint8) == ord("\n")
        outside = odd[:-2] | odd[1:-1] | odd[2:]
        odd = ~is_unambiguous(self.letters)
        unclear = np.pad(odd[:-2] | odd[1:-1] | odd[2:], 3, constant_values=True)
        inside = unclear[:-6] & unclear[3:-3] & unclear[6:] & ~outside
        return np.flatnonzero(inside)

    def rows_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chunk that holds each base of `letters`."""
        return np.asarray(np.searchsorted(self.starts, places, side="right") - 1)

    def protein(self, row: int, frame: int, first: int, codons: int) -> bytes:
        """Translate `codons` codons of a frame from base `first` of its strand on."""
        start = self.starts.item(row)
        if frame < 3:
            return amino_acids(
                self.numbers[start + first : start + first + 3 * codons : 3], reverse=False
            )
        lowest = start + self.lengths.item(row) - first - 3 * codons
        numbers = self.numbers[lowest : lowest + 3 * codons : 3]
        return amino_acids(numbers[::-1], reverse=True)

    def dna(self, row: int, frame: int, first: int, end: int) -> bytes:
        """Bases `first` to `end` of the frame's strand."""
        start = self.starts.item(row)
        if frame < 3:
            return self.letters[start + first : start + end]
        behind = start + self.lengths.item(row)
        return reverse_complement(self.letters[behind - end : behind - first])


def open_frames(block: Block) -> Runs:
    """Frames without a stop over the whole chunk.

    Returns:
        First base on the strand and length (codons) for each frame, both of shape (n, 6); the
        length is 0 where the frame has a stop or nothing but `X`.
    """
    codons = block.codons()
    forward, reverse = stop_codons(block.numbers)
    rows = block.rows_of(forward)
    codons[rows, (forward - block.starts[rows]) % 3] = 0
    rows = block.rows_of(reverse)
    behind = block.starts[rows] + block.lengths[rows]
    codons[rows, 3 + (behind - reverse) % 3] = 0
    odd = np.flatnonzero(block.has_ambiguity())
    for i, frame in np.argwhere(codons[odd]).tolist():
        row = int(odd[i])
        if not block.protein(row, frame, frame % 3, int(codons[row, frame])).strip(b"X"):
            codons[row, frame] = 0
    return np.broadcast_to(np.array([0, 1, 2, 0, 1, 2]), codons.shape), codons


def longest_runs(block: Block) -> Runs:
    """Of each frame the longest run without a stop and without a gap, leftmost of equals.

    A gap is three codons in a row that each hold an ambiguous letter: what it hides may be a stop.

    Returns:
        First base on the strand and length (codons) for each frame, both of shape (n, 6); the
        length is 0 where the frame has no such run.
    """
    forward, reverse = stop_codons(block.numbers)
    if len(gaps := block.gaps()):
        forward, reverse = np.union1d(forward, gaps), np.union1d(reverse, gaps)
    total = len(block.letters)
    # The reverse strand of the whole block: chunks in the opposite order, codon p at total-3-p.
    origins = (total - block.starts - block.lengths)[::-1]
    plus = _runs_between_stops(block.starts, block.lengths, forward)
    minus = _runs_between_stops(origins, block.lengths[::-1], (total - 3 - reverse)[::-1])
    return np.hstack([plus[0], minus[0][::-1]]), np.hstack([plus[1], minus[1][::-1]])


def _runs_between_stops(
    origins: NDArray[np.int64], lengths: NDArray[np.int64], stops: NDArray[np.int64]
) -> Runs:
    """The widest gaps between neighbouring stops in the three frames of one strand.

    All positions are bases on the strand of the whole block, ascending. Returns shape (n, 3).
    """
    rows = np.searchsorted(origins, stops, side="right") - 1
    frames = (stops - origins[rows]) % 3
    starts = np.empty((len(origins), 3), dtype=np.int64)
    runs = np.empty_like(starts)
    for frame in range(3):
        # A frame begins behind a border and ends before one, as if both were stops.
        before = origins + frame - 3
        behind = before + 3 + np.maximum(lengths - frame, 0) // 3 * 3
        borders = np.concatenate([before, behind, stops[frames == frame]])
        borders.sort(kind="stable")
        # From a chunk's last border to the next chunk's first it is less than two codons: no run.
        gaps = np.diff(borders, append=borders[-1]) // 3 - 1
        # The low half falls from left to right: of equal gaps the leftmost is the maximum.
        ranked = (gaps << _HALF) | (_LOW - np.arange(gaps.size))
        best = np.maximum.reduceat(ranked, np.searchsorted(borders, before))
        starts[:, frame] = borders[_LOW - (best & _LOW)] + 3 - origins
        runs[:, frame] = best >> _HALF
    return starts, runs
