"""The same calls without files: records in memory -> vectors -> one row for every record.

For a few thousand records at a time: training's evaluation, `virnucpro.embed`, tests. Runs of
any size go through `prediction`, which writes every stage and can resume.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from virnucpro.core.device import validate_and_get_device
from virnucpro.core.records import Embeddings, Orf, Record
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineKind, choose_dtype, make_engine
from virnucpro.models.specs import EncoderSpec, ModelSpec
from virnucpro.pipeline.calls import Caller
from virnucpro.pipeline.contigs import Contig, ScoredOrf, contig_of
from virnucpro.pipeline.features import SequenceEmbedder
from virnucpro.pipeline.ingest import screen
from virnucpro.pipeline.record_table import RecordRow
from virnucpro.reports.tables import CallRow
from virnucpro.scores.classifier import load_classifier
from virnucpro.sequences.chunks import chunk_record
from virnucpro.sequences.orfs import find_orfs

BLOCK_NT = 1 << 20
BLOCK_RECORDS = 2_000
CLASSIFIER_ROWS = 256


class DirectEncoder:
    """A model's two encoders, loaded once on one device.

    Args:
        model: what decides vectors.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `N`.
        engine: `padded` or `packed`.
        dtype: `auto`, `float32`, `float16` or `bfloat16`.

    Raises:
        ModelError: weights are missing or damaged.
        DeviceError: the device is not there.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: str = "cpu",
        engine: EngineKind = "padded",
        dtype: str = "auto",
    ) -> None:
        self.model = model
        self._device, self._engine, self._dtype = validate_and_get_device(device), engine, dtype
        self._dna = self._embedder(model.dna)
        self._protein = self._embedder(model.protein)

    @property
    def device(self) -> torch.device:
        """Where the encoders are."""
        return self._device

    def orfs(self, records: Sequence[Record]) -> tuple[list[RecordRow], list[list[list[Orf]]]]:
        """Screen, chunk and translate: a row a record, and its ORFs in one list a chunk."""
        rows, chunks = [], []
        for record in records:
            status = screen(record, 0, self.model.orf_policy)
            own = [] if status else chunk_record(record, self.model.chunk_nt)
            rows.append(
                RecordRow(
                    record.seq_id, record.sample, len(record.sequence), record.gaps, status,
                    len(own), record.header,
                )
            )  # fmt: skip
            chunks += own
        found = iter(find_orfs(chunks, self.model.orf_policy))
        return rows, [list(islice(found, row.chunks)) for row in rows]

    def vectors(self, orfs: Sequence[Orf]) -> Embeddings:
        """Merged vectors, shape (n, d) float32, DNA columns first; equal ORFs embedded once."""
        first_of: dict[tuple[str, str], int] = {}
        copies = np.array(
            [first_of.setdefault((orf.dna, orf.protein), len(first_of)) for orf in orfs],
            dtype=np.int64,
        )
        names = [str(number) for number in range(len(first_of))]
        dna = self._dna.embed(names, [pair[0] for pair in first_of], _ignore)
        protein = self._protein.embed(names, [pair[1] for pair in first_of], _ignore)
        merged = np.concatenate([dna.vectors, protein.vectors], axis=1)
        return Embeddings(tuple(orf.orf_id for orf in orfs), merged[copies])

    def _embedder(self, spec: EncoderSpec) -> SequenceEmbedder:
        encoder = load_encoder(spec, self._device, choose_dtype(self._dtype, self._device))
        engine = make_engine(self._engine, encoder, device=self._device)
        return SequenceEmbedder(make_tokenizer(spec), engine, encoder.dim)


class DirectScorer(DirectEncoder):
    """The encoders with their classifier and calibration; scores blocks of records.

    Calls are equal to those of the staged path within float32 rounding. Arguments and errors are
    those of `DirectEncoder`.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: str = "cpu",
        engine: EngineKind = "padded",
        dtype: str = "auto",
    ) -> None:
        super().__init__(model, device, engine, dtype)
        self._classifier = load_classifier(model, self._device)
        self._caller = Caller(model)

    def score(self, records: Iterable[Record]) -> Iterator[CallRow]:
        """One row for every record, in order; a block of about 1 Mnt is in memory at a time."""
        for block in record_blocks(records):
            contigs = self.contigs(block)
            yield from self._caller.rows(contigs, self._caller.p_chunks(contigs))

    def contigs(self, records: Sequence[Record]) -> list[Contig]:
        """Records with the scores of their ORFs and chunks, in order."""
        rows, found = self.orfs(records)
        scores = self._scores([orf for groups in found for group in groups for orf in group])
        row_of = iter(scores.tolist())
        return [
            contig_of(
                row,
                [[ScoredOrf(o.orf_id, o.start, o.end, *next(row_of)) for o in g] for g in groups],
                self.model.chunk_nt,
            )
            for row, groups in zip(rows, found, strict=True)
        ]

    def _scores(self, orfs: Sequence[Orf]) -> NDArray[np.float64]:
        """P(other), P(virus) and P(null), shape (n, 3); NaN where the model has no such class."""
        vectors = torch.from_numpy(self.vectors(orfs).vectors)
        table = np.full((len(orfs), 3), np.nan, dtype=np.float64)
        for first in range(0, len(orfs), CLASSIFIER_ROWS):
            scores = self._classifier.scores(vectors[first : first + CLASSIFIER_ROWS])
            table[first : first + len(scores), : scores.shape[1]] = scores
        return table


def record_blocks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in groups of at most 2,000 and about 1 Mnt."""
    block: list[Record] = []
    letters = 0
    for record in records:
        block.append(record)
        letters += len(record.sequence)
        if letters >= BLOCK_NT or len(block) == BLOCK_RECORDS:
            yield block
            block, letters = [], 0
    if block:
        yield block


def _ignore(rows: int) -> None:
    pass
