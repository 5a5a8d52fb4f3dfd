"""The input pass in several processes: one cuts shards off as text, others read them side by side.

A process reads a shard as if it were all there is. What it cannot know, which ids earlier shards
have taken and how units are numbered, is added in order where shards come together.
"""

import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from virnucpro.core.errors import InputError
from virnucpro.core.processes import children_ignore_interrupts, map_in_order
from virnucpro.pipeline import input_pass as passing
from virnucpro.pipeline.input_pass import RecordRow, Rows, Rules, Shard, Unit, input_pass
from virnucpro.pipeline.inputs import Source, read_sources, shown_name
from virnucpro.sequences.entries import Cutter, OddError
from virnucpro.sequences.read_log import IdRegistry, ReadLog
from virnucpro.sequences.streams import TextStream, open_unpacked

LEAST_BYTES = 1 << 25  # of all inputs as they lie: less is read before processes have started
MOST_BYTES = 1 << 26  # of a shard's text; where records are longer, it is chunks that fill one
MOST_WORKERS = 8  # this process cannot name the records of more

Task = tuple[list[Source], int, Rules, int]
# Columns of its records; chunks; ORFs; of each unit DNA and then proteins, a line each, and rows;
# what was met: few objects, which travel fast.
_Read = tuple[list[tuple[Any, ...]], Rows, Rows, list[tuple[bytes, list[int]]], ReadLog]


class _Wished(ReadLog):
    def unique(self, name: str, endings: tuple[str, ...] = ("",)) -> str:
        return name


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
        try:
            for shard, of_shard in _shards(sources, rules, per_unit, workers, log):
                for unit in of_shard:
                    yield replace(unit, number=units)
                    shard.units.append((units, len(unit)))
                    units += 1
                records += len(shard.records)
                yield shard
            return
        except (InputError, OddError):
            log.gaps = log.digits = log.blanks = log.bytes_read = 0
    rest = islice(read_sources(sources, log), records, None)
    yield from input_pass(rest, rules, per_unit, workers, first_unit=units)


def read_shard(task: Task) -> _Read:
    """Read a shard alone, with ids as they stand there."""
    sources, count, rules, per_unit = task
    log = _Wished(is_silent=True)
    records = chain.from_iterable(read_sources([source], log) for source in sources)
    events = [*input_pass(records, rules, per_unit)]
    units = [event for event in events if isinstance(event, Unit)]
    [shard, *more] = [event for event in events if isinstance(event, Shard)]
    if more or log.unnamed or len(shard.records) != count:
        raise OddError
    texts = [(b"\n".join([*unit.dna, *unit.protein]), unit.rows) for unit in units]
    return [*zip(*shard.records, strict=True)], shard.chunks, shard.orfs, texts, log


def _shards(
    sources: Sequence[Source], rules: Rules, per_unit: int, workers: int, log: ReadLog
) -> Iterator[tuple[Shard, list[Unit]]]:
    """Shards that processes have read, under ids that are unique, with units without numbers."""
    met, workers = ReadLog(is_silent=log.is_silent), min(workers, MOST_WORKERS)

    bytes_read = deque[int]()  # up to each shard, or a few further

    def tasks() -> Iterator[Task]:
        for text in _texts(sources, met):
            bytes_read.append(met.bytes_read)
            yield *text, rules, per_unit

    if (first := next(reader := tasks(), None)) is None:
        raise OddError
    with children_ignore_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(workers)
    joint_ids = IdRegistry() if len(sources) > 1 else None
    mates, endings, sample = sources[0].mates, sources[0].endings, None
    read: _Read
    for read in map_in_order(pool, read_shard, chain([first], reader), workers):
        columns, chunks, orfs, texts, own = read
        met.first_mark = met.first_mark or own.first_mark
        met.marks += own.marks
        log.gaps, log.digits = log.gaps + own.gaps, log.digits + own.digits
        log.blanks, log.bytes_read = log.blanks + own.blanks, bytes_read.popleft()
        rows = [*map(RecordRow._make, zip(*columns, strict=True))]
        for place in range(0, len(rows), mates):
            if rows[place].sample != sample:
                met.ids, sample = IdRegistry(), rows[place].sample
            wished = rows[place].seq_id.removesuffix(endings[0])
            joint_id = seq_id = met.unique(wished, endings)
            if joint_ids is not None:
                joint_id = joint_ids.unique(seq_id, endings)
            if joint_id != wished or seq_id != wished:
                for k, end in enumerate(endings, start=place):
                    rows[k] = rows[k]._replace(seq_id=seq_id + end, joint_id=joint_id + end)
        units = []
        for text, of_shard in texts:
            lines, count = text.split(b"\n"), len(of_shard)
            units.append(Unit(0, lines[:count], lines[count:], of_shard))
        yield Shard(rows, chunks, orfs, []), units
    met.digits, met.blanks = log.digits, log.blanks
    met.warn()


def _texts(sources: Sequence[Source], met: ReadLog) -> Iterator[tuple[list[Source], int]]:
    """The text of each shard, by sample, and how many records it has."""
    size = passing.SHARD_RECORDS + passing.SHARD_RECORDS % 2  # mates stay together
    shard, room = list[Source](), size
    for source in sources:
        with ExitStack() as stack:
            opened = [stack.enter_context(open_unpacked(p, met.count_bytes)) for p in source.paths]
            cutters = [Cutter(TextStream(one), MOST_BYTES) for one in opened]
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
            digests = [one.finish() for one in opened]
            if source.digests and digests != list(source.digests):  # changed during the run
                raise OddError
            names = zip(opened, source.names, strict=True)
            met.cut_short += [shown_name(name) for one, name in names if one.is_cut_short]
    if shard:
        yield shard, size - room
