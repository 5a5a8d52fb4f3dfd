"""chunks.tsv -> the score along a contig, for the contigs whose track is worth a look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from virnucpro.reports.tables import CallRow, ChunkRow

MOST_CHUNKS = 30_000
MOST_PER_CONTIG = 1_500
MOST_TRACKS = 1_000
SCORE_STEPS = 1_000


@dataclass(frozen=True, slots=True)
class Track:
    """Scores along one contig.

    Attributes:
        row: its place among the rows shown.
        windows: start, end (nt, 0-based, end excluded), score in thousandths (-1: not scored)
            and frame of each window, in order.
        joined: chunks in one window; above 1 where the contig has too many to draw each.
    """

    row: int
    windows: list[tuple[int, int, int, str]]
    joined: int


Chosen = dict[tuple[str, str], int]  # the row of each contig, by its sample and id


def choose(rows: Sequence[CallRow], most_chunks: int = MOST_CHUNKS) -> Chosen:
    """Pick contigs with several chunks: viral ones first, then those of mixed evidence.

    Returns:
        Row number by sample and id, of at most `MOST_TRACKS` contigs that have `most_chunks`
        chunks in all.
    """
    several = [(place, row) for place, row in enumerate(rows) if row.chunks > 1 and row.call]
    several.sort(key=lambda item: _interest(item[1]), reverse=True)
    chosen: Chosen = {}
    left = most_chunks
    for place, row in several:
        cost = min(row.chunks, MOST_PER_CONTIG)
        if cost <= left and len(chosen) < MOST_TRACKS:
            chosen[row.key] = place
            left -= cost
    return chosen


def read_tracks(chunks: Iterable[ChunkRow], chosen: Chosen) -> list[Track]:
    """The tracks of the chosen contigs, in the order of the rows; holds those only."""
    tracks = []
    for key, group in groupby(chunks, key=lambda chunk: chunk.key):
        if key in chosen:
            tracks.append(_track(chosen[key], list(group)))
    return sorted(tracks, key=lambda track: track.row)


def _interest(row: CallRow) -> tuple[bool, bool, int]:
    mixed = bool(row.supporting and row.opposing)
    return (row.call == "virus", mixed, row.chunks)


def _track(row: int, chunks: list[ChunkRow]) -> Track:
    joined = -(-len(chunks) // MOST_PER_CONTIG)
    groups = [chunks[i : i + joined] for i in range(0, len(chunks), joined)]
    return Track(row, [_window(group) for group in groups], joined)


def _window(group: list[ChunkRow]) -> tuple[int, int, int, str]:
    scored = [chunk for chunk in group if chunk.p_virus is not None]
    best = max(scored, key=lambda chunk: chunk.p_virus or 0.0, default=None)
    score = -1 if best is None else round((best.p_virus or 0.0) * SCORE_STEPS)
    return group[0].start, group[-1].end, score, "" if best is None else best.frame
