"""calls.tsv and chunks.tsv -> everything the report shows of them, in bounded memory."""

from __future__ import annotations

import gzip
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.reports.tables import (
    CALL_COLUMNS,
    CHUNK_COLUMNS,
    CallRow,
    ChunkRow,
    RegionRow,
    read_fields,
)
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
    # For each sample with viral records, how many of them a limit of `LIMITS` and no lower one
    # keeps, and the highest fdr among these.
    kept: dict[str, Counter[int]] = field(default_factory=dict)
    worst: dict[str, dict[int, float]] = field(default_factory=dict)
    top: list[CallRow] = field(default_factory=list)  # best score first, those without one last
    viral: list[int] = field(default_factory=list)  # place of each row of `top` in viral.fasta

    @property
    def scored(self) -> int:
        """Records with a score."""
        return self.records - self.calls[""]

    @property
    def curve(self) -> list[tuple[int, int, float]]:
        """What each limit keeps that keeps more than the one before.

        It is told as a place in `LIMITS`, viral calls kept, and how many of them are expected to
        be false.
        """
        found, kept, highest = [], Counter[str](), dict[str, float]()
        for place in range(len(LIMITS)):
            own = {sample: counts[place] for sample, counts in self.kept.items() if counts[place]}
            for sample in own:
                highest[sample] = self.worst[sample][place]
            kept.update(own)
            false = sum(kept[sample] * fdr for sample, fdr in highest.items())
            if own:
                found.append((place, kept.total(), false))
        return found

    def count(self, block: Sequence[Sequence[str]]) -> tuple[NDArray[np.float64], list[str]]:
        """Take rows of calls.tsv into all figures but `fdr` and `top`.

        Returns:
            Their scores, -1 where there is none, shape (rows,), and their calls.
        """
        columns = dict(zip(CALL_COLUMNS, zip(*block, strict=True), strict=True))
        calls = [call if call in CALLS else "" for call in columns["call"]]
        p_virus = np.array([p or "-1" for p in columns["p_virus"]], dtype=np.float64)
        nt = np.array(columns["length"], dtype=np.int64)
        if not np.isfinite(p_virus).all():
            raise ValueError("p_virus is no finite number")
        self.records += len(block)
        self.calls.update(calls)
        self.statuses.update(columns["status"])
        for (sample, name), count in Counter(zip(columns["sample"], calls, strict=True)).items():
            self.samples.setdefault(sample, Counter())[name] += count
        for i in (i for i, name in enumerate(calls) if name == "virus"):
            self.viral_nt += int(nt[i])
            if columns["fdr"][i]:  # it rises down the ranks, and each sample has its own
                sample, fdr = columns["sample"][i], float(columns["fdr"][i])
                self.sample_fdr[sample] = max(self.sample_fdr.get(sample, 0.0), fdr)
                place, worst = limit_of(fdr), self.worst.setdefault(sample, {})
                self.kept.setdefault(sample, Counter())[place] += 1
                worst[place] = max(worst.get(place, 0.0), fdr)
        of_call = np.array([CALLS.index(name) for name in calls])
        scored = (p_virus >= 0) & (of_call < CALLS.index(""))
        if not scored.any():
            return p_virus, calls
        of_call, own_nt = of_call[scored], nt[scored]
        self.shortest = min(self.shortest or int(own_nt.min()), int(own_nt.min()))
        self.longest = max(self.longest, int(own_nt.max()))
        of_score = np.minimum((p_virus[scored] * SCORE_BINS).astype(np.int64), SCORE_BINS - 1)
        bins = np.floor(LENGTH_BINS_PER_DECADE * np.log10(np.maximum(own_nt, 1))).astype(np.int64)
        cells, counts = np.unique([bins, of_score, of_call], axis=1, return_counts=True)
        for of_length, score, call, count in zip(*cells.tolist(), counts.tolist(), strict=True):
            self.histogram[CALLS[call]][score] += count
            self.grid[of_length, score, CALLS[call]] += count
        return p_virus, calls


def limit_of(fdr: float) -> int:
    """The place in `LIMITS` of the lowest limit that keeps a viral call."""
    return min(bisect_left(LIMITS, fdr), len(LIMITS) - 1)


def summarise(calls: Path, most_rows: int = MOST_ROWS, wanted: Collection[Key] = ()) -> Summary:
    """Count, bin and rank the rows of calls.tsv; holds about `most_rows` of them.

    Fewer are kept where long ids would make the report large. Samples and ids of `wanted` are
    kept whatever their score.

    Raises:
        InputError: the table is missing or damaged.
    """
    summary = Summary()
    best: list[tuple[float, int, int, list[str]]] = []  # of equals the first ones
    asked: list[tuple[float, int, int, list[str]]] = []
    rows, lowest = read_fields(calls, CALL_COLUMNS), -math.inf
    try:
        while block := list(islice(rows, BLOCK_ROWS)):
            first, viral = summary.records, summary.calls[VIRUS]
            scores, names = summary.count(block)
            is_viral = np.array([name == VIRUS for name in names])
            places = np.where(is_viral, viral + np.cumsum(is_viral) - 1, -1)
            better = np.flatnonzero(scores > lowest).tolist()
            best += [(-float(scores[i]), first + i, int(places[i]), block[i]) for i in better]
            if wanted:
                keys = enumerate(map(itemgetter(SAMPLE, ID), block))
                asked += [(-float(scores[i]), first + i, -1, block[i]) for i, key in keys
                          if key in wanted]  # fmt: skip
            if len(best) >= most_rows:
                best.sort()
                del best[most_rows:]
                lowest = -best[-1][0]
        numbers = {number for _, number, _, _ in best}
        best += [one for one in asked if one[1] not in numbers]
        top = [(CallRow.of(fields), place) for _, _, place, fields in sorted(best)]
    except ValueError:
        for _ in CallRow.read(calls):  # names the row
            pass
        raise
    if rates := summary.sample_fdr:
        false = sum(summary.samples[name]["virus"] * fdr for name, fdr in rates.items())
        summary.fdr = false / summary.calls["virus"]
    letters = 0
    for row, place in top:
        letters += len(row.seq_id.encode("utf-8", "surrogateescape")) + len(row.class_hint)
        if letters > MOST_ID_BYTES:
            break
        summary.top.append(row)
        summary.viral.append(place)
    return summary


def best_regions(regions: Path) -> tuple[int, list[tuple[int, RegionRow]]]:
    """Records that are viral in a region only, and the regions of most evidence in them.

    Returns:
        How many such records there are; and up to `MOST_REGIONS` regions by falling log-odds,
        each with its place in regions.fasta.
    """
    hosts, last = 0, ("", "")
    best: list[tuple[float, int, RegionRow]] = []
    others = RegionRow.read(regions, lambda texts: texts[-2] != VIRUS)
    inside = (row for row in others if row.is_inside)
    for place, row in enumerate(inside):
        hosts, last = hosts + (row.key != last), row.key
        best.append((-row.log_odds, place, row))
        if len(best) == 2 * MOST_REGIONS:
            best = sorted(best)[:MOST_REGIONS]
    return hosts, [(place, row) for _, place, row in sorted(best)[:MOST_REGIONS]]


def read_sequences(fasta: Path, row_of: dict[int, int]) -> dict[int, str]:
    """FASTA text of records by their row, `row_of` having the row of each place in the file."""
    found: dict[int, list[str]] = {row: [] for row in row_of.values()}
    place, last = -1, max(row_of, default=-1)
    if not row_of or not fasta.exists():
        return {}
    opened = gzip.open if fasta.suffix == ".gz" else open
    with opened(fasta, "rt", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            place += line.startswith(">")
            if place > last:
                break
            if place in row_of:
                found[row_of[place]].append(line)
    return {row: "".join(lines) for row, lines in found.items()}


KEY = itemgetter(CHUNK_COLUMNS.index("id"), CHUNK_COLUMNS.index("sample"))
SAMPLE, ID = CALL_COLUMNS.index("sample"), CALL_COLUMNS.index("id")
Chosen = dict[Key, int]  # the row of each contig, by its sample and id


def choose_tracks(
    rows: Sequence[CallRow], most_chunks: int = MOST_CHUNKS, hosts: Collection[Key] = ()
) -> Chosen:
    """Pick contigs with several chunks: `hosts`, then viral ones, then those of mixed evidence.

    They are at most `MOST_TRACKS` contigs, with `most_chunks` chunks in all.
    """

    def interest(item: tuple[int, CallRow]) -> tuple[bool, bool, bool, int]:
        row = item[1]
        is_mixed = bool(row.supporting and row.opposing)
        return row.key in hosts, row.call == VIRUS, is_mixed, row.chunks

    several = [(place, row) for place, row in enumerate(rows) if row.chunks > 1 and row.call]
    chosen: Chosen = {}
    for place, row in sorted(several, key=interest, reverse=True):
        cost = min(row.chunks, MOST_PER_CONTIG)
        if cost <= most_chunks and len(chosen) < MOST_TRACKS:
            chosen[row.key] = place
            most_chunks -= cost
    return chosen


def read_tracks(chunks: Path, chosen: Chosen) -> list[dict[str, Any]]:
    """Scores along the chosen contigs, in the order of the rows, as the page reads them.

    A track has its row; `joined`, the chunks in one window, above 1 where the contig has too many
    to draw each; the frames that occur; and four numbers for each window: start after the start
    of the one before, length (nt), score in thousandths (-1: not scored), and frame by its place.
    """
    tracks = []
    for (seq_id, sample), group in groupby(read_fields(chunks, CHUNK_COLUMNS), KEY):
        if (key := (sample, seq_id)) not in chosen:
            continue
        own, frames, windows, before = [*map(ChunkRow.of, group)], dict[str, int](), list[int](), 0
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
