"""Join three streams in input order: records, ORFs and scores -> one contig at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from virnucpro.pipeline.orf_stages import read_orf_places
from virnucpro.pipeline.paths import RunPaths
from virnucpro.pipeline.record_table import RecordRow, read_rows
from virnucpro.pipeline.scoring import scored_orfs
from virnucpro.sequences.chunks import chunk_windows

FRAME_LETTERS = 2
BLOCK_CONTIGS = 4_096
BLOCK_CHUNKS = 16_384


@dataclass(frozen=True, slots=True)
class ScoredOrf:
    """An ORF with its place in the chunk (nt, forward strand) and its three scores."""

    orf_id: str
    start: int
    end: int
    other: float
    virus: float
    null: float

    @property
    def chunk_id(self) -> str:
        """The chunk that it was read from."""
        return self.orf_id[:-FRAME_LETTERS]

    @property
    def frame(self) -> str:
        """F1 to R3."""
        return self.orf_id[-FRAME_LETTERS:]

    @property
    def is_scored(self) -> bool:
        """Whether the encoders and the classifier saw it."""
        return self.virus == self.virus  # NaN is not equal to itself


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """One chunk and its ORFs, all of them scored.

    Attributes:
        number: its place among the contig's chunks, from 1.
        start: first base in the contig, 0-based.
        end: one past the last.
        best: the ORF with the highest P(virus).
        other: highest P(other) over the frames.
        virus: highest P(virus) over the frames.
        null: P(null) of the best ORF; NaN where the model has no such class.
    """

    number: int
    start: int
    end: int
    best: ScoredOrf
    other: float
    virus: float
    null: float


@dataclass(frozen=True, slots=True)
class Contig:
    """One input record with its scored chunks.

    Attributes:
        record: the row of the record table.
        orfs: ORFs found, scored or not.
        chunks: chunks with at least one ORF, in order; none of a contig that lacks scores, as
            the rest of it would call it otherwise than the whole does.
        unscored: ORFs that could not be scored.
    """

    record: RecordRow
    orfs: int
    chunks: list[ScoredChunk] = field(default_factory=list)
    unscored: int = 0


def read_contigs(paths: RunPaths) -> Iterator[Contig]:
    """Stream every input record in input order with its scores; bounded memory."""
    orfs = _orfs(paths)
    waiting = next(orfs, None)
    for record in read_rows(paths.records):
        groups: list[list[ScoredOrf]] = []
        for number in range(1, record.chunks + 1):
            chunk_id = f"{record.joint_id}_chunk_{number}"
            group = []
            while waiting is not None and waiting.chunk_id == chunk_id:
                group.append(waiting)
                waiting = next(orfs, None)
            groups.append(group)
        yield contig_of(record, groups, paths.chunk_nt)


def contig_of(record: RecordRow, groups: Sequence[Sequence[ScoredOrf]], chunk_nt: int) -> Contig:
    """A record with the ORFs of its chunks, one group a chunk; `chunk_nt` cuts the chunks (nt)."""
    orfs = sum(map(len, groups))
    unscored = sum(not orf.is_scored for group in groups for orf in group)
    if unscored:
        return Contig(record, orfs, unscored=unscored)
    windows = chunk_windows(record.length, chunk_nt) if record.chunks else []
    chunks = [
        _chunk(number, window, group)
        for number, (window, group) in enumerate(zip(windows, groups, strict=True), start=1)
        if group
    ]
    return Contig(record, orfs, chunks)


def blocks(contigs: Iterable[Contig]) -> Iterator[list[Contig]]:
    """Contigs in groups of at most 4,096 and about 16,384 chunks, for vectorised work."""
    block: list[Contig] = []
    chunks = 0
    for contig in contigs:
        block.append(contig)
        chunks += contig.record.chunks
        if len(block) == BLOCK_CONTIGS or chunks >= BLOCK_CHUNKS:
            yield block
            block, chunks = [], 0
    if block:
        yield block


def _chunk(number: int, window: tuple[int, int], orfs: Sequence[ScoredOrf]) -> ScoredChunk:
    best = max(orfs, key=lambda orf: orf.virus)
    return ScoredChunk(
        number, *window, best, max(orf.other for orf in orfs), best.virus, best.null
    )  # fmt: skip


def _orfs(paths: RunPaths) -> Iterator[ScoredOrf]:
    places = (place for block in read_orf_places(paths) for place in block.tolist())
    for ids, scores in scored_orfs(paths):
        for orf_id, row in zip(ids, np.asarray(scores, dtype=np.float64).tolist(), strict=True):
            start, end = next(places)
            yield ScoredOrf(orf_id, start, end, *row)
