"""Stage 9, first half: scores -> chunk consensus, chunk track, and the model's call of each record.

What is written here depends on input and model alone; thresholds come in `final_tables`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.files import atomic_write
from virnucpro.core.records import Status
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.contigs import Contig, blocks, read_contigs
from virnucpro.pipeline.run_setup import Run
from virnucpro.reports.tables import (
    CHUNK_COLUMNS,
    CONTIG_COLUMNS,
    CallRow,
    ChunkRow,
    contig_line,
    header,
)
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.consensus import ChunkScore, write_consensus
from virnucpro.sequences.chunks import chunk_windows


def write_model_calls(run: Run) -> dict[str, int]:
    """Write the chunk consensus, chunks.tsv, and the internal table of contigs.

    Returns:
        Counts: chunks_scored, records, records by `status:{name}`, and the ORFs of the failed
        ones that could not be scored: unscored.
    """
    paths = run.paths
    counts: Counter[str] = Counter(records=0, unscored=0)
    with (
        atomic_write(paths.contigs, "w") as table,
        atomic_write(paths.chunks, "w") as track,
        atomic_write(paths.consensus) as consensus,
    ):
        scores = _write_contigs(run, table, track, counts)
        chunks = write_consensus(consensus, scores, scratch=paths.checkpoints)
    return {"chunks_scored": chunks, **counts}


def _write_contigs(
    run: Run, table: IO[str], track: IO[str], counts: Counter[str]
) -> Iterator[ChunkScore]:
    """Write each contig and its chunks; gives the scores of the chunks on the way."""
    caller = Caller(run.model)
    table.write(header(CONTIG_COLUMNS))
    track.write(header(CHUNK_COLUMNS))
    for block in blocks(read_contigs(run.paths)):
        p_chunks = caller.p_chunks(block)
        for row, contig in zip(caller.rows(block, p_chunks), block, strict=True):
            table.write(contig_line(row, contig.record.joint_id))
            counts.update({"records": 1, f"status:{row.status}": 1})
        track.writelines(row.line() for row in chunk_rows(block, p_chunks, run.model.chunk_nt))
        for contig in block:
            counts["unscored"] += contig.unscored
            for chunk in contig.chunks:
                yield ChunkScore(chunk.best.chunk_id, chunk.other, chunk.virus)


class Caller:
    """A model's calibration, applied to blocks of contigs."""

    def __init__(self, model: ModelSpec) -> None:
        self._model, self._calibration = model, Calibration.load(model.calibration)

    def p_chunks(self, block: Sequence[Contig]) -> NDArray[np.float64]:
        """p_virus of each scored chunk, as of a contig of that one chunk: shape (chunks,)."""
        scores, lengths = _scores(block)
        alone = np.arange(len(scores))
        return self._calibration.contigs(scores, lengths, alone, len(scores))[0]

    def rows(self, block: Sequence[Contig], p_chunks: NDArray[np.float64]) -> list[CallRow]:
        """The model's call of each contig; `fdr` is left open."""
        scores, lengths = _scores(block)
        contig_of = np.repeat(np.arange(len(block)), [len(contig.chunks) for contig in block])
        p_virus, calls = self._calibration.contigs(scores, lengths, contig_of, len(block))
        supporting = np.bincount(contig_of[p_chunks > 0.5], minlength=len(block)).tolist()
        opposing = np.bincount(contig_of[p_chunks < 0.5], minlength=len(block)).tolist()
        return [
            CallRow(
                seq_id=contig.record.seq_id,
                length=contig.record.length,
                chunks=contig.record.chunks,
                orfs=contig.orfs,
                status=_status(contig),
                p_virus=float(p_virus[i]) if contig.chunks else None,
                call=str(calls[i]) if contig.chunks else None,
                model=self._model.name,
                sample=contig.record.sample,
                chunks_scored=len(contig.chunks),
                supporting=supporting[i],
                opposing=opposing[i],
            )
            for i, contig in enumerate(block)
        ]


def chunk_rows(
    block: Sequence[Contig], p_chunks: NDArray[np.float64], chunk_nt: int
) -> Iterator[ChunkRow]:
    """Every chunk of the contigs, those without a score included, in order."""
    scores = iter(p_chunks.tolist())
    for contig in block:
        seq_id, sample = contig.record.seq_id, contig.record.sample
        length = contig.record.length
        windows = chunk_windows(length, chunk_nt) if contig.record.chunks else []
        scored = {chunk.number: chunk for chunk in contig.chunks}
        for number, (start, end) in enumerate(windows, start=1):
            chunk = scored.get(number)
            if chunk is None:
                yield ChunkRow(seq_id, number, start, end, sample=sample)
                continue
            best = chunk.best
            yield ChunkRow(
                seq_id, number, start, end, best.frame, start + best.start, start + best.end,
                next(scores), sample,
            )  # fmt: skip


def _scores(block: Sequence[Contig]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores (chunks, 3) and lengths (chunks,) of all scored chunks, contig after contig."""
    chunks = [chunk for contig in block for chunk in contig.chunks]
    scores = np.array([(c.other, c.virus, c.null) for c in chunks], dtype=np.float64)
    lengths = np.array([c.end - c.start for c in chunks], dtype=np.int64)
    return scores.reshape(-1, 3), lengths


def _status(contig: Contig) -> Status:
    if contig.record.status is not None:
        return contig.record.status
    if contig.chunks:
        return Status.CALLED
    return Status.FAILED if contig.unscored else Status.NO_ORF
