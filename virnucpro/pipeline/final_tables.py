"""Stage 9, second half: the model's calls and the thresholds -> what the user opens.

Two passes over the internal table of contigs: the first counts scores, for the false discovery
rate of each sample; the second writes. Memory does not grow with the number of records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.core.errors import DamagedError, InputError
from virnucpro.core.records import Record
from virnucpro.core.text import clipped
from virnucpro.pipeline.inputs import Source, read_sources
from virnucpro.pipeline.run import Run
from virnucpro.reports.table_files import FASTA_NAMES, TABLE_NAMES, TableFiles
from virnucpro.reports.tables import (
    CallRow,
    ChunkRow,
    RegionRow,
    read_chunk_rows,
    read_contig_rows,
    rounded,
)
from virnucpro.scores.composition import Composition, FdrCurve
from virnucpro.scores.intervals import ScoredWindow, viral_stretches
from virnucpro.scores.thresholds import VIRUS
from virnucpro.sequences.read_log import ReadLog

BLOCK_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class _Called:
    """A record with its final call, its chunks, and its sequence where it is viral."""

    joint_id: str
    row: CallRow
    chunks: list[ChunkRow]
    record: Record | None


def table_paths(run: Run) -> list[Path]:
    """Every file that `write_final_tables` makes."""
    names = (*TABLE_NAMES, FASTA_NAMES[run.settings.calling.gzip_fasta])
    return [folder / name for folder in _folders(run) for name in names]


def write_final_tables(run: Run) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Apply the thresholds; write calls.tsv, regions.tsv, browser tracks and the viral FASTA.

    Returns:
        Counts: records, regions, and records by `call:{name}`; and for each sample its
        records, scored records, viral records, estimated share of viruses, and the highest fdr
        among the viral ones.
    """
    counts: Counter[str] = Counter(records=0, regions=0)
    summaries = []
    _remove_other_fasta(run)
    curves = _fdr_curves(run)
    called = _called(run, curves)
    waiting = next(called, None)
    is_packed = run.settings.calling.gzip_fasta
    whole, *own = _folders(run)
    with TableFiles(whole, is_packed) as tables:
        for number, source in enumerate(run.sources):
            summary = _Summary(source, curves.get(source.sample))
            with ExitStack() as stack:
                own_tables = None
                if own:
                    own[number].mkdir(parents=True, exist_ok=True)
                    own_tables = stack.enter_context(TableFiles(own[number], is_packed))
                while waiting is not None and waiting.row.sample == source.sample:
                    row, regions = waiting.row, find_regions(waiting.row, waiting.chunks)
                    found = (row, regions, waiting.chunks, waiting.record)
                    tables.add(waiting.joint_id, *found)
                    if own_tables is not None:
                        own_tables.add(row.seq_id, *found)
                    summary.add(row)
                    counts["regions"] += len(regions)
                    waiting = next(called, None)
            summaries.append(summary.as_dict())
            counts.update(summary.counts)
    return dict(counts), summaries


def find_regions(row: CallRow, chunks: Sequence[ChunkRow]) -> list[RegionRow]:
    """The viral stretches of one contig."""
    windows = [
        ScoredWindow(chunk.start, min(chunk.end, row.length), chunk.p_virus)
        for chunk in chunks
        if chunk.p_virus is not None
    ]
    stretches = viral_stretches(windows, row.call == VIRUS)
    return [
        RegionRow(
            row.seq_id, number, found.start, found.end, row.length, found.supporting,
            found.opposing, found.mean_p, found.log_odds, row.call or "", row.sample,
        )
        for number, found in enumerate(stretches, start=1)
    ]  # fmt: skip


class _Summary:
    """What run.json says of one sample."""

    def __init__(self, source: Source, curve: FdrCurve | None) -> None:
        self._source, self._curve = source, curve
        self.counts: Counter[str] = Counter()
        self._scored, self._fdr = 0, 0.0

    def add(self, row: CallRow) -> None:
        self.counts["records"] += 1
        self._scored += row.p_virus is not None
        if row.call:
            self.counts[f"call:{row.call}"] += 1
        if row.call == VIRUS and row.fdr is not None:
            self._fdr = max(self._fdr, row.fdr)

    def as_dict(self) -> dict[str, Any]:
        viral = self.counts[f"call:{VIRUS}"]
        return {
            "sample": self._source.sample,
            "folder": self._source.folder,
            "inputs": list(self._source.names),
            "records": self.counts["records"],
            "scored": self._scored,
            "virus": viral,
            "viral_share": rounded(self._curve.viral_share) if self._curve else None,
            "fdr": self._fdr if viral else None,
        }


class _Reread:
    """The input records again, read on only as far as someone asks."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._records = read_sources(sources, ReadLog(is_silent=True))
        self._names = ", ".join(name for source in sources for name in source.names)
        self._next = 0

    def record(self, number: int, row: CallRow) -> Record:
        """The `number`-th record, from 0, which has this row; ask in rising order."""
        record = next(islice(self._records, number - self._next, None), None)
        self._next = number + 1
        if record is None or (record.sample, record.seq_id) != row.key:
            name = clipped(row.seq_id)
            problem = f"record {number + 1} is not {name} any more: changed during the run"
            raise InputError(self._names, problem)
        return record

    def finish(self) -> None:
        """Read what is left, if any of it was asked for: only then is it known to be the same."""
        if self._next:
            for _ in self._records:
                pass


def _remove_other_fasta(run: Run) -> None:
    """Remove the viral FASTA that an earlier run left in the other form."""
    name = FASTA_NAMES[not run.settings.calling.gzip_fasta]
    root, ours = run.paths.output_dir, set(run.ledger.claimed())
    for path in (folder / name for folder in _folders(run)):
        if path.relative_to(root).as_posix() in ours and not path.is_symlink():
            path.unlink(missing_ok=True)


def _folders(run: Run) -> list[Path]:
    several = run.sources if len(run.sources) > 1 else ()
    return [run.paths.output_dir, *(run.paths.samples / source.folder for source in several)]


def _fdr_curves(run: Run) -> dict[str, FdrCurve]:
    """The false discovery rates of each sample that has scored records."""
    curves = {}
    rows = (row for row, _ in read_contig_rows(run.paths.contigs) if row.p_virus is not None)
    for sample, own in groupby(rows, key=attrgetter("sample")):
        composition = Composition()
        while block := [row.p_virus for row in islice(own, BLOCK_ROWS)]:
            composition.add(np.array(block, dtype=np.float64))
        curves[sample] = composition.fdr()
    return curves


def _called(run: Run, curves: dict[str, FdrCurve]) -> Iterator[_Called]:
    chunks = read_chunk_rows(run.paths.chunks)
    inputs = _Reread(run.sources)
    for number, (row, joint_id) in enumerate(_rows_with_fdr(run, curves)):
        own = list(islice(chunks, row.chunks))
        if [chunk.key for chunk in own] != [row.key] * row.chunks:
            raise DamagedError(run.paths.chunks, f"not the chunks of '{row.seq_id}' in its place")
        record = inputs.record(number, row) if row.call == VIRUS else None
        yield _Called(joint_id, row, own, record)
    inputs.finish()


def _rows_with_fdr(run: Run, curves: dict[str, FdrCurve]) -> Iterator[tuple[CallRow, str]]:
    thresholds = run.settings.calling.thresholds
    rows = read_contig_rows(run.paths.contigs)
    for sample, own in groupby(rows, key=lambda found: found[0].sample):
        while block := list(islice(own, BLOCK_ROWS)):
            scores = [row.p_virus for row, _ in block if row.p_virus is not None]
            rates = iter(curves[sample].at(np.array(scores)).tolist() if scores else ())
            for row, joint_id in block:
                if row.p_virus is None or row.call is None:
                    yield row, joint_id
                    continue
                fdr = rounded(next(rates))
                call = thresholds.call(row.call, row.p_virus, fdr)
                yield replace(row, fdr=fdr, call=call), joint_id
