"""The model's calls and the thresholds -> what the user opens.

Two passes over the internal table of contigs: the first counts scores, for the false discovery
rate of each sample; the second writes. Memory does not grow with the number of records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.core.errors import DamagedError, InputError
from virnucpro.core.records import Record
from virnucpro.core.text import clipped
from virnucpro.pipeline.inputs import read_sources
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
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.composition import Composition, Sample
from virnucpro.scores.thresholds import VIRUS, viral_stretches
from virnucpro.sequences.read_log import ReadLog

BLOCK_ROWS = 1_024
MANY_FALSE = 0.2  # expected share of the viral records that is told


def table_paths(run: Run) -> list[Path]:
    """Every file that `write_final_tables` makes."""
    names = (*TABLE_NAMES, FASTA_NAMES[run.settings.calling.gzip_fasta])
    return [folder / name for folder in _folders(run) for name in names]


def write_final_tables(run: Run) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Apply the thresholds; write calls.tsv, regions.tsv, browser tracks and the viral FASTA.

    Returns:
        Counts: records, regions, and records by `call:{name}`; and for each sample its
        records, scored records, viral records, and what `_facts` says.
    """
    is_packed = run.settings.calling.gzip_fasta
    whole, *own = _folders(run)
    ours = set(run.ledger.claimed())
    for folder in (whole, *own):  # what an earlier run left in the other form
        other = folder / FASTA_NAMES[not is_packed]
        if other.relative_to(whole).as_posix() in ours and not other.is_symlink():
            other.unlink(missing_ok=True)
    estimates = _estimates(run)
    called = _called(run, estimates)
    waiting = next(called, None)
    totals: Counter[str] = Counter(records=0, regions=0)
    summaries = []
    with TableFiles(whole, is_packed) as tables:
        for number, source in enumerate(run.sources):
            counts: Counter[str] = Counter(records=0)
            scored, fdr = 0, 0.0
            with ExitStack() as stack:
                own_tables = None
                if own:
                    own[number].mkdir(parents=True, exist_ok=True)
                    own_tables = stack.enter_context(TableFiles(own[number], is_packed))
                while waiting is not None and waiting[1].sample == source.sample:
                    joint_id, row, chunks, record = waiting
                    regions = find_regions(row, chunks)
                    tables.add(joint_id, row, regions, chunks, record)
                    if own_tables is not None:
                        own_tables.add(row.seq_id, row, regions, chunks, record)
                    counts["records"] += 1
                    totals["regions"] += len(regions)
                    scored += row.p_virus is not None
                    if row.call:
                        counts[f"call:{row.call}"] += 1
                    if row.call == VIRUS and row.fdr is not None:
                        fdr = max(fdr, row.fdr)
                    waiting = next(called, None)
            totals.update(counts)
            viral = counts[f"call:{VIRUS}"]
            found = _facts(estimates.get(source.sample)) | {
                "expected_false": fdr if viral else None
            }
            summaries.append({
                "sample": source.sample, "folder": source.folder, "inputs": list(source.names),
                "records": counts["records"], "scored": scored, "virus": viral,
                **found, "note": _note(viral, found),
            })  # fmt: skip
    return dict(totals), summaries


def find_regions(row: CallRow, chunks: Sequence[ChunkRow]) -> list[RegionRow]:
    """The viral stretches of one contig."""
    windows = [(chunk.start, min(chunk.end, row.length), chunk.p_virus) for chunk in chunks]
    stretches = viral_stretches(windows, row.call == VIRUS)
    return [
        RegionRow(
            row.seq_id, number, found.start, found.end, row.length, found.supporting,
            found.opposing, found.mean_p, found.log_odds, row.call or "", row.sample,
        )
        for number, found in enumerate(stretches, start=1)
    ]  # fmt: skip


def _folders(run: Run) -> list[Path]:
    several = run.sources if len(run.sources) > 1 else ()
    return [run.paths.output_dir, *(run.paths.samples / source.folder for source in several)]


def _facts(sample: Sample | None) -> dict[str, Any]:
    """Share of viruses in a sample, its interval of 95%, and whether it reaches none."""
    if sample is None:
        return dict.fromkeys(("prevalence", "low", "high", "compatible_with_none"))
    numbers = {name: rounded(getattr(sample, name)) for name in ("prevalence", "low", "high")}
    return numbers | {"compatible_with_none": sample.compatible_with_none}


def _note(viral: int, found: Mapping[str, Any]) -> str:
    """What to know before the viral records of a sample are believed; empty for nothing."""
    if found["compatible_with_none"] and viral:
        return f"compatible with no virus at all: as few as 0 of its {viral:,} may be real"
    if (found["expected_false"] or 0.0) > MANY_FALSE:
        return f"{100 * found['expected_false']:.0f}% of its {viral:,} viral records may be false"
    return ""


def _estimates(run: Run) -> dict[str, Sample]:
    """The share of viruses in each sample that has scored records; a pair counts once."""
    mix = Calibration.load(run.model.calibration).mix
    estimates = {}
    every = islice(read_contig_rows(run.paths.contigs), 0, None, run.mates)
    rows = (found for found in every if found[0].p_virus is not None)
    for sample, own in groupby(rows, key=_sample):
        composition = Composition(mix, run.mates > 1)
        while block := [
            (row.p_virus, row.length, host) for row, _, host in islice(own, BLOCK_ROWS)
        ]:
            p_virus, lengths, hosts = map(np.array, zip(*block, strict=True))
            composition.add(p_virus, lengths, hosts)
        estimates[sample] = composition.estimate()
    return estimates


def _sample(found: tuple[CallRow, str, int]) -> str:
    return found[0].sample


def _called(
    run: Run, estimates: dict[str, Sample]
) -> Iterator[tuple[str, CallRow, list[ChunkRow], Record | None]]:
    """Each record's joint id, final call and chunks, and its sequence where it is viral."""
    chunks = read_chunk_rows(run.paths.chunks)
    records = enumerate(read_sources(run.sources, ReadLog(is_silent=True)))
    is_read = False
    for number, (row, joint_id) in enumerate(_rows_in_sample(run, estimates)):
        own, key = list(islice(chunks, row.chunks)), (row.sample, row.seq_id)
        if [(chunk.sample, chunk.seq_id) for chunk in own] != [key] * row.chunks:
            raise DamagedError(run.paths.chunks, f"not the chunks of '{row.seq_id}' in its place")
        record = None
        if row.call == VIRUS:
            is_read = True
            record = next((record for place, record in records if place == number), None)
            if record is None or (record.sample, record.seq_id) != key:
                names = ", ".join(name for source in run.sources for name in source.names)
                problem = f"record {number + 1} is not {clipped(row.seq_id)} any more"
                raise InputError(names, f"{problem}: changed during the run")
        yield joint_id, row, own, record
    if is_read:  # only when it was read to its end it is known to be the same
        for _ in records:
            pass


def _rows_in_sample(run: Run, estimates: dict[str, Sample]) -> Iterator[tuple[CallRow, str]]:
    thresholds = run.settings.calling.thresholds
    rows = read_contig_rows(run.paths.contigs)
    for sample, own in groupby(rows, key=_sample):
        while block := list(islice(own, BLOCK_ROWS)):
            scored = [(row.p_virus, row.length) for row, *_ in block if row.p_virus is not None]
            rates: Iterator[tuple[float, float]] = iter(())
            if scored:
                p_virus, lengths = map(np.array, zip(*scored, strict=True))
                found = estimates[sample]
                rates = zip(found.fdr(p_virus), found.p_sample(p_virus, lengths), strict=True)
            for row, joint_id, _ in block:
                if row.p_virus is None or row.call is None:
                    yield row, joint_id
                    continue
                fdr, p_sample = map(rounded, next(rates))
                call = thresholds.call(row.call, row.p_virus, fdr)
                yield replace(row, fdr=fdr, p_sample=p_sample, call=call), joint_id
