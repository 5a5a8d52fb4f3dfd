"""The input pass in several processes: one cuts shards off as text, others read them side by side.

A process reads a shard as if it were all there is. What it cannot know, which ids earlier shards
have taken and how units are numbered, is added in order where shards come together.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from virnucpro.core.errors import InputError
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.pipeline import input_pass as passing
from virnucpro.pipeline.input_pass import RecordRow, Rows, Rules, Shard, Unit, input_pass
from virnucpro.pipeline.inputs import Source, check_unchanged, read_sources
from virnucpro.pipeline.pools import map_in_order
from virnucpro.sequences.entries import Cutter, OddError
from virnucpro.sequences.fasta import MATE_ENDINGS, open_text
from virnucpro.sequences.read_log import IdRegistry, ReadLog

LEAST_BYTES = 1 << 25  # of all inputs as they lie: less is read before processes have started
MOST_BYTES = 1 << 26  # of a shard's text; where records are longer, it is chunks that fill one
MOST_WORKERS = 8  # this process cannot name the records of more

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
        try:
            for event in _shards(sources, rules, per_unit, workers, log):
                if isinstance(event, Shard):
                    records, units = records + len(event.records), units + len(event.units)
                yield event
            return
        except (InputError, OddError):
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
    windows = iter(lambda: [*islice(tasks, workers)], [])
    if (first := next(windows, None)) is None:
        raise OddError
    with children_ignore_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(workers)
    met.joint_ids = IdRegistry() if len(sources) > 1 else None
    mates, endings = sources[0].mates, MATE_ENDINGS if sources[0].mates > 1 else ("",)
    number = 0
    read: _Read
    for read in map_in_order(pool, read_shard, chain([first], windows)):
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
    size = passing.SHARD_RECORDS + passing.SHARD_RECORDS % 2  # mates stay together
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
