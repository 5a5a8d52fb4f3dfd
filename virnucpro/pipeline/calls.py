"""Scores of ORFs -> calls of chunks and records, and their tables; thresholds come later."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.files import atomic_write
from virnucpro.core.records import FRAMES, Status
from virnucpro.models.specs import ModelSpec
from virnucpro.pipeline.input_pass import Shard
from virnucpro.pipeline.output_dir import RunPaths
from virnucpro.reports.tables import CHUNK_COLUMNS, CONTIG_COLUMNS, CallRow, ChunkRow, header
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.consensus import RESULTS_HEADER, ConsensusTable, format_rows
from virnucpro.scores.kinds import KINDS, LIKENESS, RETRO, Kinds
from virnucpro.scores.thresholds import UNCERTAIN, VIRUS

# p_virus above which a kind of virus is named, and share from which the retro-transcribing one is:
# such a call may be an insertion into a host, and should say so.
LIKELY = 0.5
WRITTEN_ORFS = 20_000  # at a time: their ids and text take more than all the rest of an ORF

Scores = NDArray[np.float32]
BestOrf = tuple[str, int | None, int | None, float | None]  # frame, start, end, p_virus


@dataclass(frozen=True, slots=True)
class Called:
    """A shard with its calls."""

    rows: list[CallRow]  # of each record; `fdr` and `p_sample` are left open
    hosts: list[int]  # cellular class that it is most like, as `Kinds.hosts` has them; -1 for none
    chunk_rows: list[ChunkRow]
    scored_chunks: NDArray[np.int64]  # rows of the shard's chunks that have a score, shape (n,)
    is_virus: NDArray[np.bool_]  # some frame is at least as viral as any is not, shape (n,)
    missing: dict[str, int]  # ORFs without a score, by joint id of each record lost with them


class Caller:
    """A model's calibration, applied to shards; `mates` records in a row are one fragment."""

    def __init__(self, model: ModelSpec, mates: int = 1) -> None:
        self._model, self._calibration = model, Calibration.load(model.calibration)
        self._mates = mates
        self._kinds = Kinds(model.groups)

    def call(self, shard: Shard, scores: Scores) -> Called:
        """Call every record and chunk of a shard, given the scores of each ORF, or NaN.

        A record with an ORF without one is `failed`: the rest does not speak for it, nor its mate.
        """
        count = len(shard.records)
        chunks, orf_chunk = shard.chunks, shard.orfs["chunk"].astype(np.int64)
        record_of = chunks["record"].astype(np.int64)
        orf_record = record_of[orf_chunk]
        fragment_of = np.arange(count) // self._mates
        fragments = count // self._mates
        orfs = np.bincount(orf_record, minlength=count)
        missing = np.bincount(orf_record[np.isnan(scores[:, 1])], minlength=count)
        is_lost = (np.bincount(fragment_of, missing, fragments) > 0)[fragment_of]

        # The best ORF of each chunk; ORFs lie in the order of their chunks.
        kept = np.flatnonzero(~is_lost[orf_record])
        firsts = np.flatnonzero(np.diff(orf_chunk[kept], prepend=-1))
        scored = orf_chunk[kept][firsts]
        table = scores[kept].astype(np.float64)
        virus = np.maximum.reduceat(table[:, 1], firsts) if len(firsts) else table[:0, 1]
        other = np.maximum.reduceat(table[:, 0], firsts) if len(firsts) else table[:0, 0]
        chunk_of = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(kept)))
        candidates = np.flatnonzero(table[:, 1] == virus[chunk_of])
        best = candidates[np.unique(chunk_of[candidates], return_index=True)[1]]
        evidence = np.stack([other, virus, table[best, 2]], axis=1)

        lengths, hidden = (chunks["end"] - chunks["start"])[scored], None
        sizes = np.array([record.length for record in shard.records], dtype=np.int64)
        if self._model.orf_policy.name != "open-frame":
            lengths = chunks["clear"][scored]
            clear = np.array([record.clear for record in shard.records], dtype=np.int64)
            sizes, hidden = clear, sizes - clear
        alone = np.arange(len(scored))
        p_chunks = self._calibration.contigs(evidence, lengths, alone, lengths)[0]
        contig_of = record_of[scored]
        called = np.bincount(contig_of, minlength=count)
        p_records, calls = self._calibration.contigs(evidence, lengths, contig_of, sizes, hidden)
        p_virus = p_records
        if self._mates > 1:
            sizes, hidden = (
                np.bincount(fragment_of, np.where(called > 0, of_mate, 0), fragments)
                for of_mate in (sizes, np.zeros(count) if hidden is None else hidden)
            )
            alike = np.full((fragments, LIKENESS), np.nan)
            if self._kinds.families:
                alike = self._kinds.alike(table[best, 3:], lengths, contig_of, fragments)
            p_pairs, calls = self._calibration.contigs(
                evidence, lengths, fragment_of[contig_of], sizes, hidden, alike
            )
            p_virus, calls = p_pairs[fragment_of], calls[fragment_of]
        supporting = np.bincount(contig_of[p_chunks > 0.5], minlength=count)
        opposing = np.bincount(contig_of[p_chunks < 0.5], minlength=count)
        # Likely viruses have a kind, and a family where the model is certain.
        named: dict[int, tuple[str, float, str]] = {}
        hosts = [-1] * count
        if self._kinds.families:
            of_kinds = self._kinds.of_records(
                table[best, 3:], lengths, fragment_of[contig_of], fragments
            )
            kind, score, group, certain, host = (found[fragment_of] for found in of_kinds)
            hosts, is_retro, limits = host.tolist(), kind == RETRO, self._calibration
            is_likely = p_virus > LIKELY
            is_insertion = is_likely & is_retro & (p_virus < limits.retro_above)
            calls[is_insertion & (calls == VIRUS)] = UNCERTAIN
            is_sure = (self._kinds.of_group[group] == kind) & (certain >= limits.family_above)
            is_named = is_likely & (score >= np.where(is_retro, LIKELY, limits.kind_above))
            for i in np.flatnonzero(is_named).tolist():
                family = self._kinds.families[group[i]] if is_sure[i] else ""
                named[i] = KINDS[kind[i]], float(score[i]), family

        rows = []
        columns = (orfs, called, supporting, opposing, p_virus, p_records, calls)
        for i, (record, n_orfs, n_called, n_for, n_against, p, p_record, call) in enumerate(
            zip(shard.records, *(column.tolist() for column in columns), strict=True)
        ):
            hint, share, family = named.get(i, ("", None, ""))
            status = Status.CALLED if n_called else Status.FAILED if n_orfs else Status.NO_ORF
            has_call = p == p  # noqa: PLR0124 - no NaN
            rows.append(
                CallRow(
                    seq_id=record.seq_id, length=record.length, chunks=record.chunks, orfs=n_orfs,
                    status=record.status or status, p_virus=p if has_call else None,
                    call=call if has_call else None, model=self._model.name, sample=record.sample,
                    chunks_scored=n_called, supporting=n_for, opposing=n_against, class_hint=hint,
                    kind_score=share, family=family, topology=record.topology,
                    p_record=p_record if n_called else None,
                )
            )  # fmt: skip
        best_orfs = shard.orfs[kept[best]]
        found = dict(zip(scored.tolist(), zip(best_orfs.tolist(), p_chunks.tolist(), strict=True),
                         strict=True))  # fmt: skip
        chunk_rows = []
        for k, (record, number, start, end, _) in enumerate(chunks.tolist()):
            best_orf: BestOrf = ("", None, None, None)
            if k in found:
                (_, frame, orf_start, orf_end, _), p = found[k]
                best_orf = FRAMES[frame], start + orf_start, start + orf_end, p
            seq_id, sample = shard.records[record].seq_id, shard.records[record].sample
            chunk_rows.append(ChunkRow(seq_id, number + 1, start, end, *best_orf, sample))
        lost = np.flatnonzero(is_lost & (orfs > 0))
        lacking = {shard.records[i].joint_id: int(missing[i]) for i in lost}
        return Called(rows, hosts, chunk_rows, scored, virus >= other, lacking)


class ModelTables(ExitStack):
    """The tables that depend on input and model alone, shard by shard; a context manager."""

    def __init__(self, paths: RunPaths, model: ModelSpec, mates: int = 1) -> None:
        super().__init__()
        self._paths, self._caller = paths, Caller(model, mates)
        self._consensus = ConsensusTable(paths.checkpoints)
        self.counts: Counter[str] = Counter(records=0, nt=0, chunks=0, orfs=0, chunks_scored=0)
        self.missing: dict[str, int] = {}  # as `Called` has it, of all shards

    def __enter__(self) -> "ModelTables":
        paths = self._paths
        paths.merged_dir.mkdir(exist_ok=True)
        self._predictions, self._chunks, self._records = (
            self.enter_context(atomic_write(path, "w"))
            for path in (paths.predictions, paths.chunks, paths.contigs)
        )
        self._predictions.write(RESULTS_HEADER)
        self._chunks.write(header(CHUNK_COLUMNS))
        self._records.write(header(CONTIG_COLUMNS))
        return self

    def add(self, shard: Shard, scores: Scores) -> None:
        """Write a shard; `scores` as for `Caller.call`."""
        called = self._caller.call(shard, scores)
        present = np.flatnonzero(~np.isnan(scores[:, 1]))
        for first in range(0, len(present), WRITTEN_ORFS):
            rows = present[first : first + WRITTEN_ORFS]
            self._predictions.write(format_rows(shard.orf_ids(rows), scores[rows]))
        self._consensus.add(shard.chunk_ids(called.scored_chunks), called.is_virus.tolist())
        self._chunks.writelines(row.line() for row in called.chunk_rows)
        self._records.writelines(
            row.line(record.joint_id, host)
            for row, record, host in zip(called.rows, shard.records, called.hosts, strict=True)
        )
        self.counts.update(
            records=len(shard.records), chunks=len(shard.chunks), orfs=len(shard.orfs),
            nt=sum(record.length for record in shard.records),
            gaps=sum(record.gaps for record in shard.records),
            embedded=sum(size for _, size in shard.units),
            scored=len(present), chunks_scored=len(called.scored_chunks),
        )  # fmt: skip
        self.counts.update(f"status:{row.status}" for row in called.rows)
        self.missing |= called.missing

    def finish(self) -> None:
        """Write the table that is sorted; call it once, after the last shard."""
        with atomic_write(self._paths.consensus) as file:
            self._consensus.write(file)
