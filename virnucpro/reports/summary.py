"""One pass over calls.tsv -> everything the report shows of it, in bounded memory."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from virnucpro.reports.run_files import Call

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
        nt: total length, and that of the viral records.
        viral_nt: total length of the records called viral.
        fdr: expected false discovery rate of the records called viral; None without any.
        fdr_is_mean: whether `fdr` is the mean of 1 - p_virus for want of an `fdr` column.
        top: the rows to show, best score first, records without a score last.
    """

    records: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    samples: dict[str, Counter[str]] = field(default_factory=dict)
    histogram: dict[str, list[int]] = field(default_factory=dict)
    grid: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    nt: int = 0
    viral_nt: int = 0
    fdr: float | None = None
    fdr_is_mean: bool = False
    top: list[Call] = field(default_factory=list)

    @property
    def scored(self) -> int:
        """Records with a score."""
        return self.records - self.calls[""]


def summarise(calls: Iterable[Call], most_rows: int = MOST_ROWS) -> Summary:
    """Count, bin and rank the rows of calls.tsv; holds at most `most_rows` of them."""
    summary = Summary(histogram={call: [0] * SCORE_BINS for call in CALLS if call})
    heap: list[tuple[float, int, Call]] = []
    risk = _Risk()
    for number, call in enumerate(calls):
        _count(summary, call)
        if call.call == "virus":
            risk.add(call)
        rank = (-1.0 if call.p_virus is None else call.p_virus, -number, call)
        if len(heap) < most_rows:
            heapq.heappush(heap, rank)
        elif rank[:2] > heap[0][:2]:
            heapq.heapreplace(heap, rank)
    summary.fdr, summary.fdr_is_mean = risk.total(summary)
    heap.sort(key=lambda rank: (-rank[0], -rank[1]))
    summary.top = _within_bytes([call for _, _, call in heap])
    return summary


@dataclass(slots=True)
class _Risk:
    """Expected share of false records among those called viral."""

    doubt: float = 0.0
    highest: dict[str, float] = field(default_factory=dict)

    def add(self, call: Call) -> None:
        self.doubt += 1.0 - (call.p_virus or 0.0)
        if call.fdr is not None:
            self.highest[call.sample] = max(self.highest.get(call.sample, 0.0), call.fdr)

    def total(self, summary: Summary) -> tuple[float | None, bool]:
        """The share, and whether it rests on scores alone; each sample has its own ranks."""
        viral = summary.calls["virus"]
        if not viral:
            return None, False
        if not self.highest:
            return self.doubt / viral, True
        false = sum(summary.samples[name]["virus"] * fdr for name, fdr in self.highest.items())
        return false / viral, False


def _count(summary: Summary, call: Call) -> None:
    name = call.call if call.call in CALLS else ""
    summary.records += 1
    summary.calls[name] += 1
    summary.statuses[call.status] += 1
    summary.samples.setdefault(call.sample, Counter())[name] += 1
    summary.nt += call.length
    if name == "virus":
        summary.viral_nt += call.length
    if call.p_virus is None or not name:
        return
    score_bin = min(int(call.p_virus * SCORE_BINS), SCORE_BINS - 1)
    summary.histogram[name][score_bin] += 1
    length_bin = math.floor(LENGTH_BINS_PER_DECADE * math.log10(max(call.length, 1)))
    summary.grid[length_bin, score_bin, name] += 1


def _within_bytes(rows: list[Call]) -> list[Call]:
    """As many rows from the top as keep the report small, however long the ids are."""
    total = 0
    for number, row in enumerate(rows):
        total += len(row.seq_id.encode("utf-8", "surrogateescape")) + len(row.class_hint)
        if total > MOST_ID_BYTES:
            return rows[:number]
    return rows
