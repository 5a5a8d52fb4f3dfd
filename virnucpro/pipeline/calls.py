"""Stage 9: scores -> chunk consensus -> one call for every input record."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from virnucpro.core.files import atomic_write
from virnucpro.core.records import Status
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.contigs import Contig, blocks, read_contigs
from virnucpro.pipeline.run_setup import Run
from virnucpro.reports.tables import CallRow, write_calls
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.consensus import chunk_scores, read_predictions, write_consensus


def write_tables(run: Run) -> dict[str, int]:
    """Write the chunk consensus and calls.tsv.

    Returns:
        Counts: chunks_scored, records, and records by `status:{name}` and `call:{name}`.
    """
    paths = run.paths
    with atomic_write(paths.consensus) as file:
        frames = read_predictions(paths.predictions)
        chunks = write_consensus(file, chunk_scores(frames), scratch=paths.checkpoints)
    return {"chunks_scored": chunks, **_write_calls(run)}


def _write_calls(run: Run) -> dict[str, int]:
    counts: Counter[str] = Counter(records=0)
    calibration = Calibration.load(run.model.calibration)

    def counted() -> Iterator[CallRow]:
        for block in blocks(read_contigs(run.paths)):
            for row in call_rows(block, calibration, run.model):
                counts["records"] += 1
                counts[f"status:{row.status}"] += 1
                if row.call is not None:
                    counts[f"call:{row.call}"] += 1
                yield row

    with atomic_write(run.paths.calls, "w") as file:
        write_calls(file, counted())
    return dict(counts)


def call_rows(block: list[Contig], calibration: Calibration, model: ModelSpec) -> list[CallRow]:
    """Call each contig from its scored chunks."""
    scores = np.array(
        [(c.other, c.virus, c.null) for contig in block for c in contig.chunks], dtype=np.float64
    ).reshape(-1, 3)
    lengths = np.array([c.end - c.start for contig in block for c in contig.chunks], dtype=np.int64)
    contig_of = np.repeat(np.arange(len(block)), [len(contig.chunks) for contig in block])
    p_virus, calls = calibration.contigs(scores, lengths, contig_of, len(block))
    return [
        _row(contig, float(p_virus[i]), str(calls[i]), model.name) for i, contig in enumerate(block)
    ]


def _row(contig: Contig, p_virus: float, call: str, model: str) -> CallRow:
    record, scored = contig.record, bool(contig.chunks)
    return CallRow(
        seq_id=record.seq_id,
        length=record.length,
        chunks=record.chunks,
        orfs=contig.orfs,
        status=_status(contig),
        p_virus=p_virus if scored else None,
        call=call if scored else None,
        model=model,
    )


def _status(contig: Contig) -> Status:
    if contig.record.status is not None:
        return contig.record.status
    if contig.chunks:
        return Status.CALLED
    return Status.FAILED if contig.orfs else Status.NO_ORF


def remove_intermediates(run: Run) -> None:
    """Remove what only the stages needed, and folders that are empty then."""
    paths = run.paths
    results = {paths.predictions, paths.consensus, paths.calls}
    for name in run.record.data["files"]:
        path = paths.output_dir / name
        if path in results or path == paths.checkpoints:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    shutil.rmtree(paths.checkpoints, ignore_errors=True)
    for folder in (paths.nucleotide_dir, paths.protein_dir):
        with suppress(OSError):
            folder.rmdir()
