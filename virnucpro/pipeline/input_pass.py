"""One pass over the input: records -> chunks -> ORFs, and the distinct ORFs in units of work.

Rows are numbered within shards of a fixed size, so that memory is bounded by a shard, and shards
can be read side by side. A process reads one as if it were all there is; what it cannot know, ids
that are taken and the numbers of units, is added in order where shards come together.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.errors import InputError
from virnucpro.core.processes import children_ignore_interrupts, map_in_order
from virnucpro.core.records import FRAMES, Record, Status
from virnucpro.pipeline.inputs import Source, check_unchanged, read_sources
from virnucpro.pipeline.parallel_translate import translate_blocks
from virnucpro.sequences.chunks import (
    chunk_windows,
    circle_windows,
    even_windows,
    tandem_unit,
    terminal_repeat,
)
from virnucpro.sequences.fasta import MATE_ENDINGS, Cutter, OddError, open_text
from virnucpro.sequences.letters import clear_letters, normalise, screen_record
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.sequences.read_log import IdRegistry, ReadLog

SHARD_RECORDS = 50_000
SHARD_CHUNKS = 100_000
BLOCK_CHUNKS = 1_000
SHORTEST_NT = {"longest": 60, "open-frame": 3}
LEAST_BYTES = 1 << 25  # of all inputs as they lie: less is read before processes have started
MOST_BYTES = 1 << 26  # of a shard's text; where records are longer, it is chunks that fill one
MOST_WORKERS = 8  # this process cannot name the records of more

# record: row of the chunk's record in the shard; number: of the chunk in its record, from 0;
# start, end: its place in the record (nt), beyond the record's end where it crosses the junction
# of a circle; clear: how many of its letters are A, C, G or T.
CHUNK = np.dtype(
    [("record", "<u4"), ("number", "<u4"), ("start", "<i4"), ("end", "<i4"), ("clear", "<i4")]
)
# chunk: row of the ORF's chunk in the shard; frame: index of FRAMES; start, end: its place on
# the chunk's forward strand (nt); distinct: row of the shard's distinct ORF with its sequences.
ORF = np.dtype(
    [("chunk", "<u4"), ("frame", "u1"), ("start", "<i4"), ("end", "<i4"), ("distinct", "<u4")]
)

Rows = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides which ORFs an input gives; `is_sampled` has the number of a record, from 0."""

    chunk_nt: int  # length of a chunk (nt)
    policy: OrfPolicy  # which reading frames of a chunk are scored
    min_length: int = 0  # shorter records are not scored (nt)
    is_sampled: Callable[[int], bool] | None = None

    def status(self, record: Record, number: int) -> Status | None:
        """Why a record is not scored; None if it is."""
        if status := screen_record(record, min_nt=SHORTEST_NT[self.policy.name]):
            return status
        is_taken = self.is_sampled is None or self.is_sampled(number)
        return None if is_taken and len(record.sequence) >= self.min_length else Status.FILTERED

    def chunks(self, letters: str) -> tuple[list[tuple[int, int]], str, int, str]:
        """Windows of a record, the letters to cut them from, how many are clear, its topology.

        Under `open-frame` the plan is the published one; else N at the ends is no part of it, it is
        the same on both strands, and a circle is read over its junction.
        """
        repeat = terminal_repeat(normalised := normalise(letters))
        clear = tandem_unit(normalised) or clear_letters(letters)
        topology = "circular" if repeat else "linear"
        if self.policy.name == "open-frame":
            windows = chunk_windows(len(letters), self.chunk_nt)
        elif repeat:
            turn = len(letters) - repeat
            windows = circle_windows(normalised[:turn], self.chunk_nt)
            letters = letters[:turn] * 2
        else:
            first = len(letters) - len(normalised.lstrip(b"N"))
            inner = even_windows(len(normalised.strip(b"N")), self.chunk_nt)
            windows = [(first + start, first + end) for start, end in inner]
        return windows, letters, clear, topology


class RecordRow(NamedTuple):
    """An input record without its letters: its ids, where it belongs, and what becomes of it."""

    seq_id: str  # unique within its sample
    joint_id: str  # unique within the run
    sample: str
    length: int  # letters (nt)
    gaps: int  # gap letters that were removed (nt)
    status: Status | None  # why it is not scored; None if it is
    chunks: int
    # letters that are A, C, G or T; those of one unit where it is that unit again and again
    clear: int = 0
    topology: str = ""  # `circular` where it ends as it begins, else `linear`; empty if not scored


@dataclass(frozen=True, slots=True)
class Unit:
    """Distinct ORFs of one shard that are computed, committed and lost together."""

    number: int  # of the unit in the run, from 0
    dna: list[bytes]  # of each ORF (nt)
    protein: list[bytes]  # its translation (aa)
    rows: list[int]  # of the shard, where each was first seen

    def __len__(self) -> int:
        return len(self.dna)


@dataclass(frozen=True, slots=True)
class Shard:
    """A stretch of the input: its records, chunks and ORFs as rows, in input order."""

    records: list[RecordRow]
    chunks: Rows  # shape (chunks,) of `CHUNK`
    orfs: Rows  # shape (orfs,) of `ORF`
    units: list[tuple[int, int]]  # number and size; their ORFs are the shard's distinct ones

    def chunk_ids(self, rows: Rows | slice = slice(None)) -> list[str]:
        """`{joint id}_chunk_{k}` of the chunks at `rows`, k from 1."""
        chunks = self.chunks[["record", "number"]][rows].tolist()
        return [f"{self.records[record].joint_id}_chunk_{k + 1}" for record, k in chunks]

    def orf_ids(self, rows: Rows | slice | list[int] = slice(None)) -> list[str]:
        """Chunk id and frame, with nothing between, of the ORFs at `rows`."""
        orfs = self.orfs[rows]
        ids = zip(self.chunk_ids(orfs["chunk"]), orfs["frame"].tolist(), strict=True)
        return [seq_id + FRAMES[frame] for seq_id, frame in ids]


def input_pass(
    records: Iterable[Record],
    rules: Rules,
    per_unit: int,
    workers: int | None = 1,
    on_chunks: Callable[[list[str]], object] = lambda texts: None,
    first_unit: int = 0,
) -> Iterator[Unit | Shard]:
    """Cut records into chunks, read their ORFs, and gather distinct ones into units. Streams.

    Yields each unit when it is full, and each shard after its last unit. `workers` processes
    translate, None takes every usable CPU. `on_chunks` gets the letters of some chunks before
    their units and shard come.
    """
    number, none = first_unit, np.empty(0)
    shard = Shard([], none, none, [])  # as far as it has been read
    chunk_parts, orf_parts = list[Rows](), list[Rows]()
    seen = dict[bytes, int]()  # row of each distinct ORF
    waiting = list[tuple[bytes, bytes, int]]()  # DNA, protein and row of those of no unit
    for block, texts, found in translate_blocks(_blocks(records, rules), rules.policy, workers):
        new_records, chunks, ends_shard = block
        on_chunks(texts)
        rows, first = np.empty(len(found), dtype=ORF), sum(map(len, orf_parts))
        rows["chunk"] = found.chunk + sum(map(len, chunk_parts))
        rows["frame"], rows["start"], rows["end"] = found.frame, found.start, found.end
        distinct = []
        for row, (dna, protein) in enumerate(zip(found.dna, found.protein, strict=True), first):
            # 128 bits: among 10^9 ORFs the chance that two share them is below 10^-20.
            key = blake2b(dna + b" " + protein, digest_size=16).digest()
            known = len(seen)
            distinct.append(seen.setdefault(key, known))
            if len(seen) > known:
                waiting.append((dna, protein, row))
        rows["distinct"] = distinct
        shard.records.extend(new_records)
        chunk_parts.append(chunks)
        orf_parts.append(rows)
        while len(waiting) >= per_unit or (waiting and ends_shard):
            unit = Unit(number, *map(list, zip(*waiting[:per_unit], strict=True)))
            del waiting[:per_unit]
            shard.units.append((number, len(unit)))
            yield unit
            number += 1
        if ends_shard:
            chunks, rows = np.concatenate(chunk_parts), np.concatenate(orf_parts)
            yield Shard(shard.records, chunks, rows, shard.units)
            shard, seen = Shard([], none, none, []), {}
            chunk_parts, orf_parts = [], []


_Block = tuple[list[RecordRow], Rows, bool]


def _blocks(records: Iterable[Record], rules: Rules) -> Iterator[tuple[_Block, list[str]]]:
    """Chunks in groups with the records that begin among them, and whether a shard ends there."""
    rows: list[RecordRow] = []
    places: list[tuple[int, int, int, int, int]] = []
    texts: list[str] = []
    in_shard = chunks_in_shard = 0
    for number, record in enumerate(records):
        is_full = in_shard >= SHARD_RECORDS or chunks_in_shard >= SHARD_CHUNKS
        if is_full and in_shard % 2 == 0:  # mates stay together
            yield (rows, np.array(places, dtype=CHUNK), True), texts
            rows, places, texts, in_shard, chunks_in_shard = [], [], [], 0, 0
        status = rules.status(record, number)
        windows, letters, clear, topology = (
            ([], "", 0, "") if status else rules.chunks(record.sequence)
        )
        rows.append(
            RecordRow(
                record.seq_id, record.joint_id, record.sample, len(record.sequence), record.gaps,
                status, len(windows), clear, topology,
            )
        )  # fmt: skip
        for k, (start, end) in enumerate(windows):
            text = letters[start:end]
            places.append((in_shard, k, start, end, clear_letters(text)))
            texts.append(text)
            if len(texts) == BLOCK_CHUNKS:
                yield (rows, np.array(places, dtype=CHUNK), False), texts
                rows, places, texts = [], [], []
        in_shard += 1
        chunks_in_shard += len(windows)
    yield (rows, np.array(places, dtype=CHUNK), True), texts


# The text of a shard by sample, its records, and the bytes of all inputs up to it or a bit further.
Task = tuple[list[Source], int, int, Rules, int]
# Columns of its records; chunks; ORFs; of each unit DNA and then proteins, a line each, and rows;
# what was met: few objects, which travel fast.
_Read = tuple[list[tuple[Any, ...]], Rows, Rows, list[tuple[bytes, list[int]]], ReadLog]


class _Wished(ReadLog):
    def ids_of(self, name: str, endings: tuple[str, ...] = ("",)) -> tuple[str, str]:
        return name, name


def read_inputs(
    sources: Sequence[Source], rules: Rules, per_unit: int, workers: int, log: ReadLog
) -> Iterator[Unit | Shard]:
    """Units and shards of all samples, as `input_pass` makes them of `read_sources`.

    From 2 on, so many `workers` read the shards of large inputs. From the first shard on that is
    not one of short records, or has anything wrong, all is read here, and told as ever.
    """
    records = units = 0
    size = sum(path.stat().st_size for source in sources for path in source.paths)
    if workers > 1 and rules.is_sampled is None and size >= LEAST_BYTES:
        with suppress(InputError, OddError):
            for event in _shards(sources, rules, per_unit, workers, log):
                if isinstance(event, Shard):
                    records, units = records + len(event.records), units + len(event.units)
                yield event
            if records:
                return
        log.gaps = log.digits = log.blanks = log.bytes_read = 0
    rest = islice(read_sources(sources, log), records, None)
    yield from input_pass(rest, rules, per_unit, workers, first_unit=units)


def read_shard(task: Task) -> _Read:
    """Read a shard alone, with ids as they stand there."""
    sources, count, bytes_read, rules, per_unit = task
    log = _Wished(is_silent=True, bytes_read=bytes_read)
    events = [*input_pass(read_sources(sources, log), rules, per_unit)]
    units = [event for event in events if isinstance(event, Unit)]
    [shard, *more] = [event for event in events if isinstance(event, Shard)]
    if more or log.unnamed or len(shard.records) != count:
        raise OddError
    texts = [(b"\n".join([*unit.dna, *unit.protein]), unit.rows) for unit in units]
    return [*zip(*shard.records, strict=True)], shard.chunks, shard.orfs, texts, log


def _shards(
    sources: Sequence[Source], rules: Rules, per_unit: int, workers: int, log: ReadLog
) -> Iterator[Unit | Shard]:
    """What processes have read, under ids that are unique."""
    met, workers = ReadLog(is_silent=log.is_silent), min(workers, MOST_WORKERS)
    tasks = ((*text, met.bytes_read, rules, per_unit) for text in _texts(sources, met))
    if (first := next(tasks, None)) is None:
        return
    with children_ignore_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(workers)
    met.joint_ids = IdRegistry() if len(sources) > 1 else None
    mates, endings = sources[0].mates, MATE_ENDINGS if sources[0].mates > 1 else ("",)
    number = 0
    read: _Read
    for read in map_in_order(pool, read_shard, chain([first], tasks), workers):
        columns, chunks, orfs, texts, own = read
        met.first_mark = met.first_mark or own.first_mark
        met.marks += own.marks
        log.gaps, log.digits = log.gaps + own.gaps, log.digits + own.digits
        log.blanks, log.bytes_read = log.blanks + own.blanks, own.bytes_read
        rows = [*map(RecordRow._make, zip(*columns, strict=True))]
        for place in range(0, len(rows), mates):
            if rows[place].sample != met.sample:
                met.ids, met.sample = IdRegistry(), rows[place].sample
            wished = rows[place].seq_id.removesuffix(endings[0])
            seq_id, joint_id = met.ids_of(wished, endings)
            if joint_id != wished or seq_id != wished:
                for k, end in enumerate(endings, start=place):
                    rows[k] = rows[k]._replace(seq_id=seq_id + end, joint_id=joint_id + end)
        shard = Shard(rows, chunks, orfs, [])
        for text, of_shard in texts:
            lines, count = text.split(b"\n"), len(of_shard)
            shard.units.append((number, count))
            yield Unit(number, lines[:count], lines[count:], of_shard)
            number += 1
        yield shard
    log.bytes_read, met.digits, met.blanks = met.bytes_read, log.digits, log.blanks
    met.warn()


def _texts(sources: Sequence[Source], met: ReadLog) -> Iterator[tuple[list[Source], int]]:
    """The text of each shard, by sample, and how many records it has."""
    size = SHARD_RECORDS + SHARD_RECORDS % 2  # mates stay together
    shard, room = list[Source](), size
    for source in sources:
        with ExitStack() as stack:
            texts = [stack.enter_context(open_text(path, met)) for path in source.paths]
            cutters = [Cutter(text, MOST_BYTES) for text in texts]
            while True:
                cut = [cutter.take(room // len(cutters)) for cutter in cutters]
                count = sum(records for _, records in cut)
                if count:
                    stretches = tuple(stretch for stretch, _ in cut)
                    shard.append(replace(source, digests=(), stretches=stretches))
                room -= count
                if room > 0:
                    break
                yield shard, size
                shard, room = [], size
        check_unchanged(source, met)
    if shard:
        yield shard, size - room
