"""One pass over calls.tsv -> everything the report shows of it, in bounded memory."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from virnucpro.reports.tables import CallRow

CALLS = ("virus", "non-virus", "uncertain", "")
SCORE_BINS = 50
LENGTH_BINS_PER_DECADE = 16
MOST_ROWS = 20_000
MOST_ID_BYTES = 1_500_000


@dataclass(slots=True)
class Summary:
    """What calls.tsv says in all.

    Attributes:
        records: rows of the table.
        calls: records by call; `""` are those without one.
        statuses: records by status.
        samples: for each sample, in order of appearance, its records by call.
        histogram: for each call, scored records by score, `SCORE_BINS` equal bins from 0 to 1.
        grid: scored records by (length bin, score bin, call); a length bin is
            `floor(LENGTH_BINS_PER_DECADE * log10(nt))`.
        shortest: length of the shortest scored record (nt); 0 without any.
        longest: length of the longest.
        viral_nt: total length of the records called viral.
        sample_fdr: for each sample with viral records, their expected false discovery rate.
        fdr: the same of all records called viral; None without any.
        top: the rows to show, best score first, records without a score last.
    """

    records: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    samples: dict[str, Counter[str]] = field(default_factory=dict)
    histogram: dict[str, list[int]] = field(default_factory=dict)
    grid: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    shortest: int = 0
    longest: int = 0
    viral_nt: int = 0
    sample_fdr: dict[str, float] = field(default_factory=dict)
    fdr: float | None = None
    top: list[CallRow] = field(default_factory=list)

    @property
    def scored(self) -> int:
        """Records with a score."""
        return self.records - self.calls[""]


def summarise(rows: Iterable[CallRow], most_rows: int = MOST_ROWS) -> Summary:
    """Count, bin and rank the rows of calls.tsv; holds at most `most_rows` of them."""
    summary = Summary(histogram={call: [0] * SCORE_BINS for call in CALLS if call})
    heap: list[tuple[float, int, CallRow]] = []
    for number, row in enumerate(rows):
        _count(summary, row)
        rank = (-1.0 if row.p_virus is None else row.p_virus, -number, row)
        if len(heap) < most_rows:
            heapq.heappush(heap, rank)
        elif rank[:2] > heap[0][:2]:
            heapq.heapreplace(heap, rank)
    if rates := summary.sample_fdr:
        false = sum(summary.samples[name]["virus"] * fdr for name, fdr in rates.items())
        summary.fdr = false / summary.calls["virus"]
    heap.sort(key=lambda rank: (-rank[0], -rank[1]))
    summary.top = _within_bytes([row for _, _, row in heap])
    return summary


def _count(summary: Summary, row: CallRow) -> None:
    name = row.call if row.call in CALLS else ""
    summary.records += 1
    summary.calls[name] += 1
    summary.statuses[str(row.status)] += 1
    summary.samples.setdefault(row.sample, Counter())[name] += 1
    if name == "virus":
        summary.viral_nt += row.length
        if row.fdr is not None:  # fdr rises down the ranks, and each sample has its own
            highest = summary.sample_fdr.get(row.sample, 0.0)
            summary.sample_fdr[row.sample] = max(highest, row.fdr)
    if row.p_virus is None or not name:
        return
    summary.shortest = min(summary.shortest or row.length, row.length)
    summary.longest = max(summary.longest, row.length)
    score_bin = min(int(row.p_virus * SCORE_BINS), SCORE_BINS - 1)
    summary.histogram[name][score_bin] += 1
    length_bin = math.floor(LENGTH_BINS_PER_DECADE * math.log10(max(row.length, 1)))
    summary.grid[length_bin, score_bin, name] += 1


def _within_bytes(rows: list[CallRow]) -> list[CallRow]:
    """As many rows from the top as keep the report small, however long the ids are."""
    total = 0
    for number, row in enumerate(rows):
        total += len(row.seq_id.encode("utf-8", "surrogateescape")) + len(row.class_hint)
        if total > MOST_ID_BYTES:
            return rows[:number]
    return rows
