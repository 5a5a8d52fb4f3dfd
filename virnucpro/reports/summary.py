"""calls.tsv and chunks.tsv -> everything the report shows of them, in bounded memory."""

import gzip
import itertools
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.reports import tables
from virnucpro.reports.tables import CallRow, ChunkRow, RegionRow
from virnucpro.scores.thresholds import VIRUS

CALLS = ("virus", "non-virus", "uncertain", "")
SCORE_BINS = 50
LENGTH_BINS_PER_DECADE = 16
BLOCK_ROWS = 8_192
MOST_ROWS = 20_000
MOST_ID_BYTES = 1_500_000
MOST_CHUNKS = 30_000
MOST_PER_CONTIG = 1_500
MOST_TRACKS = 1_000
SCORE_STEPS = 1_000
MOST_REGIONS = 500
# What a user may bound the false discovery rate by, from 0.01% to 100%.
LIMITS = tuple(float(f"{10 ** (k / 16):.2g}") for k in range(-64, 1))

Key = tuple[str, str]  # of a record: sample and id
_CALL_KEY = itemgetter(tables.CALL_COLUMNS.index("sample"), tables.CALL_COLUMNS.index("id"))
_CHUNK_KEY = itemgetter(tables.CHUNK_COLUMNS.index("sample"), tables.CHUNK_COLUMNS.index("id"))


@dataclass(slots=True)
class Summary:
    """What calls.tsv says in all; a fragment is a record, or a pair, whose mates have one call."""

    mates: int = 1  # records of a fragment
    records: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    # For each sample, in order of appearance, its fragments by call, "" without one.
    samples: dict[str, Counter[str]] = field(default_factory=dict)
    # Scored records by (length bin, score bin, call); a length bin is
    # `floor(LENGTH_BINS_PER_DECADE * log10(nt))`.
    grid: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    shortest: int = 0  # scored record (nt); 0 without any
    longest: int = 0
    viral_nt: int = 0  # total length of the records called viral
    # For each sample with viral fragments, how many of them a limit of `LIMITS` and no lower one
    # keeps, and the highest fdr among these, by the limit's place.
    kept: dict[str, dict[int, tuple[int, float]]] = field(default_factory=dict)
    # Best score first, those without one last, each with its place in viral.fasta or -1.
    top: list[tuple[CallRow, int]] = field(default_factory=list)

    @property
    def scored(self) -> int:
        """Records with a score."""
        return self.records - self.mates * self.calls[""]

    @property
    def calls(self) -> Counter[str]:
        """Fragments by call."""
        return sum(self.samples.values(), Counter[str]())

    @property
    def histogram(self) -> dict[str, list[int]]:
        """For each call, scored fragments by score, `SCORE_BINS` equal bins from 0 to 1."""
        counts = Counter[tuple[str, int]]()
        for (_, score, call), count in self.grid.items():
            counts[call, score] += count
        scores = range(SCORE_BINS)
        return {call: [counts[call, n] // self.mates for n in scores] for call in CALLS[:-1]}

    @property
    def curve(self) -> list[tuple[int, int, float]]:
        """Place in `LIMITS` of limits that keep more, viral calls kept, and the false expected."""
        found, kept = [], dict[str, tuple[int, float]]()
        for place in range(len(LIMITS)):
            own = {name: counts[place] for name, counts in self.kept.items() if place in counts}
            for name, (count, fdr) in own.items():
                kept[name] = kept.get(name, (0, 0.0))[0] + count, fdr
            if own:
                false = sum(count * fdr for count, fdr in kept.values())
                found.append((place, sum(count for count, _ in kept.values()), false))
        return found

    def count(self, block: Sequence[Sequence[str]]) -> tuple[NDArray[np.float64], list[str]]:
        """Take rows into all figures but `top`; returns their scores, -1 for none, and calls."""
        columns = dict(zip(tables.CALL_COLUMNS, zip(*block, strict=True), strict=True))
        calls = [call if call in CALLS else "" for call in columns["call"]]
        p_virus = np.array([p or "-1" for p in columns["p_virus"]], dtype=np.float64)
        nt = np.array(columns["length"], dtype=np.int64)
        if not np.isfinite(p_virus).all():
            raise ValueError("p_virus is no finite number")
        self.records += len(block)
        self.statuses.update(columns["status"])
        rows = (columns["sample"], calls, columns["fdr"])
        samples, names, fdrs = (texts[:: self.mates] for texts in rows)
        for (sample, name), count in Counter(zip(samples, names, strict=True)).items():
            self.samples.setdefault(sample, Counter())[name] += count
        for sample, name, fdr in zip(samples, names, fdrs, strict=True):
            if name == VIRUS and fdr:
                kept, place = self.kept.setdefault(sample, {}), limit_of(float(fdr))
                count, worst = kept.get(place, (0, 0.0))
                kept[place] = count + 1, max(worst, float(fdr))
        of_call = np.array([CALLS.index(name) for name in calls])
        self.viral_nt += int(nt[of_call == CALLS.index(VIRUS)].sum())
        scored = (p_virus >= 0) & (of_call < CALLS.index(""))
        if scored.any():
            of_call, nt = of_call[scored], nt[scored]
            self.shortest = min(self.shortest or int(nt.min()), int(nt.min()))
            self.longest = max(self.longest, int(nt.max()))
            of_score = np.minimum((p_virus[scored] * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
            bins = np.floor(LENGTH_BINS_PER_DECADE * np.log10(np.maximum(nt, 1))).astype(np.int64)
            cells, counts = np.unique([bins, of_score, of_call], axis=1, return_counts=True)
            for of_length, score, call, count in zip(*cells.tolist(), counts.tolist(), strict=True):
                self.grid[of_length, score, CALLS[call]] += count
        return p_virus, calls


def limit_of(fdr: float) -> int:
    """The place in `LIMITS` of the lowest limit that keeps a viral call."""
    return min(bisect_left(LIMITS, fdr), len(LIMITS) - 1)


def summarise(calls: Path, wanted: Collection[Key] = (), mates: int = 1) -> Summary:
    """Count, bin and rank the rows of calls.tsv; holds about `MOST_ROWS` of them.

    Fewer if ids are long; those of `wanted` are kept whatever their score. A damaged table is an
    `InputError`.
    """
    summary = Summary(mates)
    best, asked = [], []  # negative score, number, place in viral.fasta and text of a row
    rows, lowest = tables.read_fields(calls, tables.CALL_COLUMNS), -math.inf
    numbers, viral = itertools.count(), itertools.count()
    try:
        while block := list(itertools.islice(rows, BLOCK_ROWS)):
            scores, names = summary.count(block)
            places = [next(viral) if name == VIRUS else -1 for name in names]
            found = [*zip((-scores).tolist(), numbers, places, block, strict=False)]
            best += [found[i] for i in np.flatnonzero(scores > lowest)]
            if wanted:
                asked += [row for row in found if _CALL_KEY(row[-1]) in wanted]
            if len(best) >= MOST_ROWS:
                best.sort()
                del best[MOST_ROWS:]
                lowest = -best[-1][0]
        every = {row[1]: row for row in (*best, *asked)}
        top = [(CallRow.of(fields), place) for _, _, place, fields in sorted(every.values())]
    except ValueError:
        for _ in CallRow.read(calls):  # names the row
            pass
        raise
    letters = 0
    for row, place in top:
        letters += len(row.seq_id.encode("utf-8", "surrogateescape")) + len(row.class_hint)
        if letters > MOST_ID_BYTES:
            break
        summary.top.append((row, place))
    return summary


def best_regions(regions: Path) -> tuple[int, list[tuple[int, RegionRow]]]:
    """How many records are viral in a region only, and the regions of most evidence in them.

    They are up to `MOST_REGIONS` by falling log-odds, each with its place in regions.fasta.
    """
    hosts, last = 0, ("", "")
    best: list[tuple[float, int, RegionRow]] = []
    others = RegionRow.read(regions, lambda texts: texts[-2] != VIRUS)
    for place, row in enumerate(row for row in others if row.is_inside):
        hosts, last = hosts + (row.key != last), row.key
        best.append((-row.log_odds, place, row))
        if len(best) == 2 * MOST_REGIONS:
            best = sorted(best)[:MOST_REGIONS]
    return hosts, [(place, row) for _, place, row in sorted(best)[:MOST_REGIONS]]


def read_sequences(fasta: Path, row_of: dict[int, int]) -> dict[int, str]:
    """FASTA text of records by their row, `row_of` having the row of each place in the file."""
    found = dict.fromkeys(row_of.values(), "")
    place, last = -1, max(row_of, default=-1)
    opened = gzip.open if fasta.suffix == ".gz" else open
    with opened(fasta, "rt", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            place += line.startswith(">")
            if place > last:
                break
            if place in row_of:
                found[row_of[place]] += line
    return found


def choose_tracks(rows: Sequence[CallRow], hosts: Collection[Key]) -> dict[Key, int]:
    """Rows of contigs with several chunks: `hosts`, viral ones, then those of mixed evidence."""

    def interest(place: int) -> tuple[bool, bool, bool, int]:
        row = rows[place]
        is_mixed = bool(row.supporting and row.opposing)
        return row.key in hosts, row.call == VIRUS, is_mixed, row.chunks

    several = [place for place, row in enumerate(rows) if row.chunks > 1 and row.call]
    chosen: dict[Key, int] = {}
    left = MOST_CHUNKS
    for place in sorted(several, key=interest, reverse=True):
        cost = min(rows[place].chunks, MOST_PER_CONTIG)
        if cost <= left and len(chosen) < MOST_TRACKS:
            chosen[rows[place].key] = place
            left -= cost
    return chosen


def read_tracks(chunks: Path, chosen: dict[Key, int]) -> list[dict[str, Any]]:
    """Scores along the chosen contigs, in the order of the rows.

    A track has its row; `joined`, the chunks in one window, above 1 where the contig has too many
    to draw each; the frames that occur; and four numbers for each window: start after the start
    of the one before, length (nt), score in thousandths (-1: not scored), and frame by its place.
    """
    tracks, rows = [], tables.read_fields(chunks, tables.CHUNK_COLUMNS)
    for key, group in itertools.groupby(rows, _CHUNK_KEY):
        if key not in chosen:
            continue
        own, frames, windows, before = [*map(ChunkRow.of, group)], dict[str, int](), list[int](), 0
        joined = -(-len(own) // MOST_PER_CONTIG)
        for first in range(0, len(own), joined):
            window = own[first : first + joined]
            scored = [(c.p_virus, c.frame) for c in window if c.p_virus is not None]
            p_virus, frame = max(scored, key=itemgetter(0), default=(None, ""))
            score = -1 if p_virus is None else round(p_virus * SCORE_STEPS)
            start, end = window[0].start, window[-1].end
            windows += [start - before, end - start, score, frames.setdefault(frame, len(frames))]
            before = start
        about = {"row": chosen[key], "joined": joined, "frames": [*frames], "windows": windows}
        tracks.append(about)
    return sorted(tracks, key=itemgetter("row"))
