"""calls.tsv and chunks.tsv -> everything the report shows of them, in bounded memory."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

from virnucpro.reports.tables import CallRow, ChunkRow

CALLS = ("virus", "non-virus", "uncertain", "")
SCORE_BINS = 50
LENGTH_BINS_PER_DECADE = 16
MOST_ROWS = 20_000
MOST_ID_BYTES = 1_500_000
MOST_CHUNKS = 30_000
MOST_PER_CONTIG = 1_500
MOST_TRACKS = 1_000
SCORE_STEPS = 1_000


@dataclass(slots=True)
class Summary:
    """What calls.tsv says in all."""

    records: int = 0
    calls: Counter[str] = field(default_factory=Counter)  # records by call, "" without one
    statuses: Counter[str] = field(default_factory=Counter)
    # For each sample, in order of appearance, its records by call.
    samples: dict[str, Counter[str]] = field(default_factory=dict)
    # For each call, scored records by score, `SCORE_BINS` equal bins from 0 to 1.
    histogram: dict[str, list[int]] = field(
        default_factory=lambda: {call: [0] * SCORE_BINS for call in CALLS if call}
    )
    # Scored records by (length bin, score bin, call); a length bin is
    # `floor(LENGTH_BINS_PER_DECADE * log10(nt))`.
    grid: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    shortest: int = 0  # scored record (nt); 0 without any
    longest: int = 0
    viral_nt: int = 0  # total length of the records called viral
    sample_fdr: dict[str, float] = field(default_factory=dict)  # of samples with viral records
    fdr: float | None = None  # of all records called viral; None without any
    top: list[CallRow] = field(default_factory=list)  # best score first, those without one last

    @property
    def scored(self) -> int:
        """Records with a score."""
        return self.records - self.calls[""]

    def count(self, row: CallRow) -> None:
        """Take a row into all figures but `fdr` and `top`."""
        name = row.call if row.call in CALLS else ""
        self.records += 1
        self.calls[name] += 1
        self.statuses[str(row.status)] += 1
        self.samples.setdefault(row.sample, Counter())[name] += 1
        if name == "virus":
            self.viral_nt += row.length
            if row.fdr is not None:  # fdr rises down the ranks, and each sample has its own
                highest = self.sample_fdr.get(row.sample, 0.0)
                self.sample_fdr[row.sample] = max(highest, row.fdr)
        if row.p_virus is None or not name:
            return
        self.shortest = min(self.shortest or row.length, row.length)
        self.longest = max(self.longest, row.length)
        score_bin = min(int(row.p_virus * SCORE_BINS), SCORE_BINS - 1)
        self.histogram[name][score_bin] += 1
        length_bin = math.floor(LENGTH_BINS_PER_DECADE * math.log10(max(row.length, 1)))
        self.grid[length_bin, score_bin, name] += 1


def summarise(rows: Iterable[CallRow], most_rows: int = MOST_ROWS) -> Summary:
    """Count, bin and rank the rows of calls.tsv; holds at most `most_rows` of them.

    Fewer are kept where long ids would make the report large.
    """
    summary = Summary()

    def counted() -> Iterator[CallRow]:
        for row in rows:
            summary.count(row)
            yield row

    def score(row: CallRow) -> float:
        return -1.0 if row.p_virus is None else row.p_virus

    best = heapq.nlargest(most_rows, counted(), score)  # of equals the first ones
    if rates := summary.sample_fdr:
        false = sum(summary.samples[name]["virus"] * fdr for name, fdr in rates.items())
        summary.fdr = false / summary.calls["virus"]
    letters = 0
    for row in best:
        letters += len(row.seq_id.encode("utf-8", "surrogateescape")) + len(row.class_hint)
        if letters > MOST_ID_BYTES:
            break
        summary.top.append(row)
    return summary


Chosen = dict[tuple[str, str], int]  # the row of each contig, by its sample and id


def choose_tracks(rows: Sequence[CallRow], most_chunks: int = MOST_CHUNKS) -> Chosen:
    """Pick contigs with several chunks: viral ones first, then those of mixed evidence.

    They are at most `MOST_TRACKS` contigs, with `most_chunks` chunks in all.
    """

    def interest(item: tuple[int, CallRow]) -> tuple[bool, bool, int]:
        row = item[1]
        return row.call == "virus", bool(row.supporting and row.opposing), row.chunks

    several = [(place, row) for place, row in enumerate(rows) if row.chunks > 1 and row.call]
    chosen: Chosen = {}
    for place, row in sorted(several, key=interest, reverse=True):
        cost = min(row.chunks, MOST_PER_CONTIG)
        if cost <= most_chunks and len(chosen) < MOST_TRACKS:
            chosen[row.key] = place
            most_chunks -= cost
    return chosen


def read_tracks(chunks: Iterable[ChunkRow], chosen: Chosen) -> list[dict[str, Any]]:
    """Scores along the chosen contigs, in the order of the rows, as the page reads them.

    A track has its row; `joined`, the chunks in one window, above 1 where the contig has too many
    to draw each; the frames that occur; and four numbers for each window: start after the start
    of the one before, length (nt), score in thousandths (-1: not scored), and frame by its place.
    """
    tracks = []
    for key, group in groupby(chunks, key=lambda chunk: chunk.key):
        if key not in chosen:
            continue
        own, frames, windows, before = list(group), dict[str, int](), list[int](), 0
        joined = -(-len(own) // MOST_PER_CONTIG)
        for first in range(0, len(own), joined):
            window = own[first : first + joined]
            scored = [(c.p_virus, c.frame) for c in window if c.p_virus is not None]
            p_virus, frame = max(scored, key=lambda pair: pair[0], default=(None, ""))
            score = -1 if p_virus is None else round(p_virus * SCORE_STEPS)
            start, end = window[0].start, window[-1].end
            place = frames.setdefault(frame, len(frames))
            windows += [start - before, end - start, score, place]
            before = start
        about = {"row": chosen[key], "joined": joined, "frames": [*frames], "windows": windows}
        tracks.append(about)
    return sorted(tracks, key=itemgetter("row"))
