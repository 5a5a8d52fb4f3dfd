"""The model's calls and the thresholds -> what the user opens.

Two passes over the internal table of contigs: the first counts scores, for the false discovery
rate of each sample; the second writes. Memory does not grow with the number of records.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import DamagedError, InputError
from virnucpro.core.records import Record
from virnucpro.core.text import clipped, counted
from virnucpro.pipeline.inputs import read_sources
from virnucpro.pipeline.run import Run
from virnucpro.reports.explain import SURE_FDR
from virnucpro.reports.table_files import FASTA_NAMES, table_files
from virnucpro.reports.tables import (
    CHUNK_COLUMNS,
    CONTIG_COLUMNS,
    ChunkRow,
    RegionRow,
    read_fields,
    rounded,
)
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.composition import Composition, Sample
from virnucpro.scores.thresholds import VIRAL, VIRUS, Thresholds
from virnucpro.sequences.read_log import ReadLog

BLOCK_ROWS = 1_024  # of whole pairs
MANY_FALSE = 0.2  # expected share of the viral records that is told
BRIDGED_CHUNKS = 1  # opposing chunks in a row that viral chunks on both sides bridge
# Chance of one false stretch in a contig that is not viral as a whole, if scores are calibrated.
FALSE_STRETCHES = 0.05
_LEAST = 1e-6
# Rows stay text from the model's table to the user's: a place is that of a column.
_AT = {name: place for place, name in enumerate(CONTIG_COLUMNS)}
ID, LENGTH, CHUNKS, P_VIRUS, CALL, SAMPLE, SUPPORTING, FDR, P_SAMPLE, JOINT_ID, HOST = (
    _AT[name] for name in ("id", "length", "chunks", "p_virus", "call", "sample", "supporting",
                           "fdr", "p_sample", "joint_id", "host")
)  # fmt: skip


def write_final_tables(run: Run) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Write calls.tsv, regions.tsv, tracks and viral FASTA; counts, and facts of each sample."""
    is_packed = run.settings.calling.gzip_fasta
    whole, *own = run.folders
    ours = set(run.ledger.claimed())
    for folder in (whole, *own):  # what an earlier run left in the other form
        for other in (folder / name for name in FASTA_NAMES[not is_packed]):
            if other.relative_to(whole).as_posix() in ours and not other.is_symlink():
                other.unlink(missing_ok=True)
    estimates = _estimates(run)
    called = _called(run, estimates)
    waiting = next(called, None)
    totals: Counter[str] = Counter(records=0, regions=0, with_regions=0)
    summaries = []
    with table_files(whole, is_packed) as tables:
        for number, source in enumerate(run.sources):
            counts: Counter[str] = Counter(records=0)
            scored, sure, fdr = 0, 0, 0.0
            with ExitStack() as stack:
                own_tables = None
                if own:
                    own[number].mkdir(parents=True, exist_ok=True)
                    own_tables = stack.enter_context(table_files(own[number], is_packed))
                while waiting is not None and waiting[0][SAMPLE] == source.sample:
                    row, joint_id, chunks, regions, record = waiting
                    tables.add(joint_id, row, regions, chunks, record)
                    if own_tables is not None:
                        own_tables.add(row[ID], row, regions, chunks, record)
                    counts["records"] += 1
                    totals["regions"] += len(regions)
                    if call := row[CALL]:
                        scored += 1
                        counts[f"call:{call}"] += 1
                        if call == VIRUS:
                            fdr = max(fdr, float(row[FDR]))
                            sure += float(row[FDR]) <= SURE_FDR
                    counts["with_regions"] += any(found.is_inside for found in regions)
                    waiting = next(called, None)
            totals.update(counts)
            viral, sample = counts[f"call:{VIRUS}"], estimates.get(source.sample)
            is_like_none = sample.compatible_with_none if sample else None
            note = ""  # what to know before the viral records are believed
            found = counted(viral // run.mates, f"viral {'pair' if run.mates > 1 else 'record'}")
            if is_like_none and (viral or run.settings.calling.thresholds != Thresholds()):
                note = "compatible with no virus at all"
                note += f": as few as 0 of its {found} may be real" if viral else ""
            elif viral and fdr > MANY_FALSE:
                note = f"{100 * fdr:.0f}% of its {found} may be false"
            summaries.append({
                "sample": source.sample, "folder": source.folder, "inputs": list(source.names),
                "records": counts["records"], "scored": scored, "virus": viral,
                "with_regions": counts["with_regions"],
                # the share of viruses in the sample, and its interval of 95%
                **{name: rounded(getattr(sample, name)) if sample else None
                   for name in ("prevalence", "low", "high")},
                "compatible_with_none": is_like_none,
                "expected_false": fdr if viral else None, "sure": sure, "note": note,
            })  # fmt: skip
    return dict(totals), summaries


def viral_regions(chunks: Sequence[ChunkRow], length: int, call: str) -> list[RegionRow]:
    """The viral stretches of a contig of `length` nt, given its chunks and its call.

    Viral chunks that follow each other among the scored chunks make one stretch; a single opposing
    chunk between two viral ones is bridged. In a contig that is called a virus every stretch
    counts. In any other the log-odds of a stretch must sum to at least ln(n / 0.05), n being the
    scored chunks of the contig: chance makes one such stretch in 20 contigs.
    """
    scored = [(chunk, chunk.p_virus) for chunk in chunks if chunk.p_virus is not None]
    needed = -math.inf if call == VIRUS else math.log(max(len(scored), 1) / FALSE_STRETCHES)
    runs: list[tuple[int, int]] = []
    for i, (_, p) in enumerate(scored):
        if p > VIRAL and runs and i - runs[-1][1] <= BRIDGED_CHUNKS + 1:
            runs[-1] = (runs[-1][0], i)
        elif p > VIRAL:
            runs.append((i, i))
    found: list[RegionRow] = []
    for first, last in runs:
        inside, scores = zip(*scored[first : last + 1], strict=True)
        bounded = [min(max(p, _LEAST), 1 - _LEAST) for p in scores]
        log_odds = sum(math.log(p / (1 - p)) for p in bounded)
        if log_odds >= needed:
            start, end = inside[0].start, min(length, max(chunk.end for chunk in inside))
            supporting, n = sum(p > VIRAL for p in scores), len(scores)
            found.append(
                RegionRow(
                    inside[0].seq_id, len(found) + 1, start, end, (end - start) / length,
                    supporting, n - supporting, sum(scores) / n, log_odds, call, inside[0].sample,
                )
            )  # fmt: skip
    return found


def _blocks(run: Run) -> Iterator[tuple[str, list[list[str]]]]:
    """Samples, each again and again, with some rows of their contigs as text."""
    rows = read_fields(run.paths.contigs, CONTIG_COLUMNS)
    for sample, own in groupby(rows, key=itemgetter(SAMPLE)):
        while block := list(islice(own, BLOCK_ROWS)):
            yield sample, block


def _numbers(rows: list[list[str]], place: int) -> NDArray[np.float64]:
    return np.array([row[place] for row in rows], dtype=np.float64)


def _estimates(run: Run) -> dict[str, Sample]:
    """The share of viruses in each sample that has scored records; a pair counts once."""
    mix, added = Calibration.load(run.model.calibration).mix, dict[str, Composition]()
    for sample, block in _blocks(run):
        if scored := [row for row in block[:: run.mates] if row[P_VIRUS]]:
            p, lengths, hosts = (_numbers(scored, place) for place in (P_VIRUS, LENGTH, HOST))
            if sample not in added:
                added[sample] = Composition(mix, run.mates > 1)
            added[sample].add(p, lengths, hosts.astype(int))
    return {sample: composition.estimate() for sample, composition in added.items()}


def _called(
    run: Run, estimates: dict[str, Sample]
) -> Iterator[tuple[list[str], str, list[ChunkRow], list[RegionRow], Record | None]]:
    """Each record's row, joint id, chunks and regions if any is viral, and then the record."""
    thresholds, number, is_read = run.settings.calling.thresholds, -1, False
    chunks = read_fields(run.paths.chunks, CHUNK_COLUMNS)
    records = enumerate(read_sources(run.sources, ReadLog(is_silent=True)))
    for sample, block in _blocks(run):
        if scored := [row for row in block if row[P_VIRUS]]:
            p, estimate = _numbers(scored, P_VIRUS), estimates[sample]
            p_sample = estimate.p_sample(p, _numbers(scored, LENGTH))
            found = zip(scored, *map(list, (p, estimate.fdr(p), p_sample)), strict=True)
            for row, own_p, fdr, p_here in found:
                row[FDR], row[P_SAMPLE] = f"{fdr:.6g}", f"{p_here:.6g}"
                row[CALL] = thresholds.call(row[CALL], own_p, float(row[FDR]))
        for row in block:
            number += 1
            joint_id, key = row[JOINT_ID], [row[ID], row[SAMPLE]]
            del row[JOINT_ID:]
            own = list(islice(chunks, int(row[CHUNKS])))
            if [[chunk[0], chunk[-1]] for chunk in own] != [key] * int(row[CHUNKS]):
                raise DamagedError(run.paths.chunks, f"not the chunks of '{row[ID]}' in its place")
            viral = [*map(ChunkRow.of, own)] if row[SUPPORTING] != "0" else []
            regions, record = list[RegionRow](), None
            if len(viral) > 1:  # of a record of one chunk its row says all that a region could
                regions = viral_regions(viral, int(row[LENGTH]), row[CALL])
            if row[CALL] == VIRUS or any(region.is_inside for region in regions):
                is_read = True
                record = next((record for place, record in records if place == number), None)
                if record is None or [record.seq_id, record.sample] != key:
                    names = ", ".join(name for source in run.sources for name in source.names)
                    problem = f"record {number + 1} is not {clipped(row[ID])} any more"
                    raise InputError(names, f"{problem}: changed during the run")
            yield row, joint_id, viral, regions, record
    if is_read:  # only when it was read to its end it is known to be the same
        for _ in records:
            pass
