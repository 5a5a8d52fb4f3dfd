"""Stop-free runs in the six frames of many chunks at once.

A base is a code from 0 to 3 or, when ambiguous, 4; a codon is one number, and one table look-up a
strand turns it into an amino acid. The chunks of a block lie end to end with separator letters
between them: a codon that would reach into the next chunk holds a separator, so it reads `X` and
can never be a stop. Work per codon is a table look-up; Python loops only over results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# NCBI translation table 1, first base slowest, bases in the order TCAG.
_TABLE_1 = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_AMBIGUOUS = 4
_CLEAR = b"ACGTUacgtu"
_STOP, _UNKNOWN = ord("*"), ord("X")
# Four letters, so that a frame's border before its first codon lies behind the previous chunk's
# last border: the borders of all chunks are in order.
_SEPARATOR = "\n" * 4
_OFFSETS = np.array([0, 1, 2, 0, 1, 2])
# A run's place travels in the low half of a number and its length in the high half: one maximum
# then settles both.
_HALF = 32
_LOW = (1 << _HALF) - 1

Runs = tuple[NDArray[np.int64], NDArray[np.int64]]


def _table(values: dict[int, int], other: int) -> bytes:
    return bytes(values.get(byte, other) for byte in range(256))


def _codon_table(*, reverse: bool) -> bytes:
    """The amino acid of each codon number, as it stands or as read on the other strand."""
    table = {}
    for codon in range(125):
        codes = [codon // 25, codon // 5 % 5, codon % 5]
        if _AMBIGUOUS in codes:
            continue
        if reverse:  # the complement of codes 0 to 3 (T C A G) is the code with bit 2 flipped
            codes = [code ^ 2 for code in reversed(codes)]
        table[codon] = ord(_TABLE_1[16 * codes[0] + 4 * codes[1] + codes[2]])
    return _table(table, _UNKNOWN)


_CODES = _table(dict(zip(b"TUCAGtucag", [0, 0, 1, 2, 3] * 2, strict=True)), _AMBIGUOUS)
_FORWARD, _REVERSE = _codon_table(reverse=False), _codon_table(reverse=True)
_STOPS = bytes((a == _STOP) + 2 * (b == _STOP) for a, b in zip(_FORWARD, _REVERSE, strict=True))
_COMPLEMENT = bytes.maketrans(b"ACGTRYKMBVDH", b"TGCAYRMKVBHD")
# `N` for what is no letter of DNA; a line feed, which keeps chunks of a block apart, stays.
_PLAIN, _GIVEN = b"ACGTTNRYKMSWBDHV\n", b"ACGTUNRYKMSWBDHV\n"
_NORMAL = _table(dict(zip(_GIVEN + _GIVEN.lower(), _PLAIN + _PLAIN, strict=True)), ord("N"))


def normalise(sequence: str) -> bytes:
    """Upper-case letters of IUPAC, one byte each: U as T, `N` for what is none of them.

    >>> normalise("acgunXé")
    b'ACGTNNN'
    """
    return sequence.encode("ascii", "replace").translate(_NORMAL)


def reverse_complement(letters: bytes) -> bytes:
    """The other strand of normalised letters, with the IUPAC codes complemented.

    >>> reverse_complement(b"ACGTRKBDN")
    b'NHVMYACGT'
    """
    return letters.translate(_COMPLEMENT)[::-1]


def clear_letters(sequence: str) -> int:
    """How many letters are A, C, G, T or U, any case."""
    return len(sequence) - len(sequence.encode("ascii", "replace").translate(None, _CLEAR))


@dataclass(frozen=True, slots=True)
class Block:
    """Chunks end to end. Frames are numbered as `FRAMES`: 0 to 2 forward, 3 to 5 reverse."""

    # upper-case IUPAC letters of all chunks (U as T, `N` for what is none of them), with separators
    # after each
    letters: bytes
    # codon number at each base, shape (len(letters) - 2,); codons with a letter other than A, C, G,
    # T, U share the numbers that are read as `X`
    numbers: bytes
    starts: NDArray[np.int64]  # first base of each chunk in `letters`, shape (n,)
    lengths: NDArray[np.int64]  # bases of each chunk, shape (n,)

    @classmethod
    def of(cls, sequences: Sequence[str]) -> Block:
        """Lay sequences end to end."""
        lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
        stride = lengths + len(_SEPARATOR)
        text = _SEPARATOR.join([*sequences, ""])
        letters = normalise(text)
        codes = np.frombuffer(letters.translate(_CODES), dtype=np.uint8)
        numbers = (codes[:-2] * 25 + codes[1:-1] * 5 + codes[2:]).tobytes()
        return cls(letters, numbers, np.cumsum(stride) - stride, lengths)

    def codons(self) -> NDArray[np.int64]:
        """Whole codons in each frame, shape (n, 6)."""
        codons: NDArray[np.int64] = np.maximum(self.lengths[:, None] - _OFFSETS, 0) // 3
        return codons

    def stops(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Bases at which a codon begins that is a stop as it stands, or on the other strand."""
        strands = np.frombuffer(self.numbers.translate(_STOPS), dtype=np.uint8)
        places = np.flatnonzero(strands)
        is_reverse = strands[places] == 2
        return places[~is_reverse], places[is_reverse]

    def ambiguous(self) -> NDArray[np.int64]:
        """Rows of the chunks that hold a letter other than A, C, G, T."""
        odd = np.frombuffer(self.letters.translate(_CODES), dtype=np.uint8) == _AMBIGUOUS
        counts = np.add.reduceat(odd, self.starts, dtype=np.int64)
        return np.flatnonzero(counts > len(_SEPARATOR))

    def gaps(self) -> NDArray[np.int64]:
        """Places of codons between two others of their frame, all three ambiguous or outside."""
        if not self.letters.translate(None, b"ACGT\n"):
            return np.empty(0, dtype=np.int64)
        border = np.frombuffer(self.letters, dtype=np.uint8) == ord("\n")
        odd = np.frombuffer(self.letters.translate(_CODES), dtype=np.uint8) == _AMBIGUOUS
        outside, unclear = (x[:-2] | x[1:-1] | x[2:] for x in (border, odd))
        near = np.pad(unclear, 3, constant_values=True)
        return np.flatnonzero(near[:-6] & unclear & near[6:] & ~outside)

    def rows_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The chunk that holds each base of `letters`."""
        return np.asarray(np.searchsorted(self.starts, places, side="right") - 1)

    def protein(self, row: int, frame: int, first: int, codons: int) -> bytes:
        """Translate `codons` codons of a frame from base `first` of its strand on."""
        start = self.starts.item(row)
        if frame < 3:
            place = start + first
            return self.numbers[place : place + 3 * codons : 3].translate(_FORWARD)
        lowest = start + self.lengths.item(row) - first - 3 * codons
        return self.numbers[lowest : lowest + 3 * codons : 3][::-1].translate(_REVERSE)

    def dna(self, row: int, frame: int, first: int, end: int) -> bytes:
        """Bases `first` to `end` of the frame's strand."""
        start = self.starts.item(row)
        if frame < 3:
            return self.letters[start + first : start + end]
        behind = start + self.lengths.item(row)
        return reverse_complement(self.letters[behind - end : behind - first])


def open_frames(block: Block) -> Runs:
    """Frames without a stop over the whole chunk: first base of each, its codons, (n, 6).

    The length is 0 where the frame has a stop or nothing but `X`.
    """
    codons = block.codons()
    forward, reverse = block.stops()
    rows = block.rows_of(forward)
    codons[rows, (forward - block.starts[rows]) % 3] = 0
    rows = block.rows_of(reverse)
    behind = block.starts[rows] + block.lengths[rows]
    codons[rows, 3 + (behind - reverse) % 3] = 0
    odd = block.ambiguous()
    for i, frame in np.argwhere(codons[odd]).tolist():
        row = int(odd[i])
        if not block.protein(row, frame, frame % 3, int(codons[row, frame])).strip(b"X"):
            codons[row, frame] = 0
    return np.broadcast_to(_OFFSETS, codons.shape), codons


def longest_runs(block: Block) -> Runs:
    """Of each frame the longest run without a stop and without a gap, leftmost of equals.

    A gap is three codons in a row that each hold an ambiguous letter: what it hides may be a stop.
    """
    forward, reverse = block.stops()
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
    """The widest gaps between neighbouring stops in a strand's three frames: shape (n, 3)."""
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
