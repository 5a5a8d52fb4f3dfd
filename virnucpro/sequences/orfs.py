"""Chunks -> ORFs: stop-free runs in six frames of a whole block of chunks at once.

A codon is one number, which one table look-up a strand turns into an amino acid. Chunks lie end to
end: a codon that would reach into the next one holds a separator, so it reads `X`, never a stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.config import ORF_POLICIES, PolicyName
from virnucpro.core.records import FRAMES
from virnucpro.sequences.letters import normalise, reverse_complement

# A shorter run is kept only where the chunk has nothing better (codons).
_SHORTEST_RUN = 5
# NCBI translation table 1, first base slowest, bases in the order TCAG.
_TABLE_1 = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
_AMBIGUOUS, _STOP = 4, ord("*")
# Four letters, so that a frame's border before its first codon lies behind the previous chunk's
# last border: the borders of all chunks are in order.
_SEPARATOR = "\n" * 4
_OFFSETS = np.array([0, 1, 2, 0, 1, 2])
_LOW = (1 << 32) - 1

Runs = tuple[NDArray[np.int64], NDArray[np.int64]]


def _table(values: dict[int, int], other: int) -> bytes:
    return bytes(values.get(byte, other) for byte in range(256))


# The amino acid of each codon number, as it stands and as read on the other strand; the complement
# of codes 0 to 3 (T C A G) is the code with bit 2 flipped.
_forward, _reverse = dict[int, int](), dict[int, int]()
for (_a, _b, _c), _letter in zip(product(range(4), repeat=3), _TABLE_1, strict=True):
    _forward[25 * _a + 5 * _b + _c] = ord(_letter)
    _reverse[25 * (_c ^ 2) + 5 * (_b ^ 2) + (_a ^ 2)] = ord(_letter)
_FORWARD, _REVERSE = _table(_forward, ord("X")), _table(_reverse, ord("X"))
_STOPS = bytes((a == _STOP) + 2 * (b == _STOP) for a, b in zip(_FORWARD, _REVERSE, strict=True))
_CODES = _table(dict(zip(b"TCAG", range(4), strict=True)), _AMBIGUOUS)


@dataclass(frozen=True, slots=True)
class Orfs:
    """ORFs of some chunks, column by column: n rows in the order of chunks, then of `FRAMES`."""

    chunk: NDArray[np.int64]  # index of each ORF's chunk among those given, shape (n,)
    frame: NDArray[np.uint8]  # its frame as an index of `FRAMES`, shape (n,)
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


class _Block:
    """Chunks end to end. Frames are numbered as `FRAMES`: 0 to 2 forward, 3 to 5 reverse."""

    def __init__(self, chunks: Sequence[str]) -> None:
        self.lengths = np.fromiter(map(len, chunks), dtype=np.int64, count=len(chunks))
        stride = self.lengths + len(_SEPARATOR)
        self.starts = np.cumsum(stride) - stride  # first base of each chunk in `letters`
        self.letters = normalise(_SEPARATOR.join([*chunks, ""]))
        codes = np.frombuffer(self.letters.translate(_CODES), dtype=np.uint8)
        self.odd = codes == _AMBIGUOUS
        # Codon number at each base, shape (len(letters) - 2,)
        self.numbers = (codes[:-2] * 25 + codes[1:-1] * 5 + codes[2:]).tobytes()
        strands = np.frombuffer(self.numbers.translate(_STOPS), dtype=np.uint8)
        places = np.flatnonzero(strands)
        is_reverse = strands[places] == 2
        # Bases at which a codon begins that is a stop as it stands, or on the other strand
        self.stops = places[~is_reverse], places[is_reverse]

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


def find_orfs(chunks: Sequence[str], policy: OrfPolicy) -> Orfs:
    """The ORFs of some chunks; over a thousand at a time leave the processor's caches.

    A codon with an ambiguous base is `X`; an ORF of nothing but `X` is none. Under `open-frame`
    the DNA is one base longer than the codons where the chunk has it; under `longest` it is the
    whole strand from the frame's first base on, and a run shorter than 5 codons is kept only if the
    chunk has none that long: every chunk with 60 unambiguous bases in a row gives an ORF.
    """
    if not chunks:
        none = np.empty(0, dtype=np.int64)
        return Orfs(none, none.astype(np.uint8), none, none, [], [])
    is_open = policy.name == "open-frame"
    block = _Block(chunks)
    starts, lengths = _open_frames(block) if is_open else _longest_runs(block)
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


def _open_frames(block: _Block) -> Runs:
    """First base and codons of each frame, (n, 6); 0 codons with a stop or nothing but `X`."""
    codons: NDArray[np.int64] = np.maximum(block.lengths[:, None] - _OFFSETS, 0) // 3
    forward, reverse = block.stops
    rows = np.searchsorted(block.starts, forward, side="right") - 1
    codons[rows, (forward - block.starts[rows]) % 3] = 0
    rows = np.searchsorted(block.starts, reverse, side="right") - 1
    behind = block.starts[rows] + block.lengths[rows]
    codons[rows, 3 + (behind - reverse) % 3] = 0
    ambiguous = np.add.reduceat(block.odd, block.starts, dtype=np.int64) > len(_SEPARATOR)
    for row, frame in np.argwhere(np.where(ambiguous[:, None], codons, 0)).tolist():
        if not block.protein(row, frame, frame % 3, int(codons[row, frame])).strip(b"X"):
            codons[row, frame] = 0
    return np.broadcast_to(_OFFSETS, codons.shape), codons


def _longest_runs(block: _Block) -> Runs:
    """Of each frame the longest run without a stop and without a gap, leftmost of equals.

    A gap is three codons in a row that each hold an ambiguous letter: what it hides may be a stop.
    """
    forward, reverse = block.stops
    if block.letters.translate(None, b"ACGT\n"):
        border = np.frombuffer(block.letters, dtype=np.uint8) == ord("\n")
        outside, unclear = (x[:-2] | x[1:-1] | x[2:] for x in (border, block.odd))
        near = np.pad(unclear, 3, constant_values=True)
        gaps = np.flatnonzero(near[:-6] & unclear & near[6:] & ~outside)
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
        # Length in the high half of a number, place in the low one: one maximum settles both, and
        # as the low half falls from left to right, of equal gaps the leftmost.
        ranked = (gaps << 32) | (_LOW - np.arange(gaps.size))
        best = np.maximum.reduceat(ranked, np.searchsorted(borders, before))
        starts[:, frame] = borders[_LOW - (best & _LOW)] + 3 - origins
        runs[:, frame] = best >> 32
    return starts, runs


def _kept(
    block: _Block, starts: NDArray[np.int64], lengths: NDArray[np.int64], policy: OrfPolicy
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
