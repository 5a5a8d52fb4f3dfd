"""The input pass in several processes: one cuts shards off as text, others read them side by side.

A process reads a shard as if it were all there is. What it cannot know, which ids earlier shards
have taken and how units are numbered, is added in order where shards come together.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice
from typing import Any, NamedTuple

from virnucpro.core.errors import InputError
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.pipeline import input_pass as passing
from virnucpro.pipeline.input_pass import RecordRow, Rows, Rules, Shard, Unit, input_pass
from virnucpro.pipeline.inputs import Source, read_sources, shown_name
from virnucpro.pipeline.pools import map_in_order
from virnucpro.sequences.entries import Cutter
from virnucpro.sequences.read_log import IdRegistry, ReadLog
from virnucpro.sequences.streams import TextStream, open_unpacked

LEAST_BYTES = 1 << 25  # of all inputs as they lie: less is read before processes have started
MOST_BYTES = 1 << 26  # of a shard's text; where records are longer, it is chunks that fill one

Task = tuple[list[Source], int, Rules, int]


class _Wished(ReadLog):
    def unique(self, name: str, endings: tuple[str, ...] = ("",)) -> str:
        return name


class _Read(NamedTuple):
    """A shard in few objects, which travel fast."""

    records: list[tuple[Any, ...]]  # column by column
    chunks: Rows
    orfs: Rows
    units: list[tuple[bytes, list[int]]]  # lines of DNA, then of proteins; rows
    log: ReadLog


def read_shard(task: Task) -> _Read | None:
    """Read a shard alone; None if it is not one after all, or if anything is wrong with it."""
    sources, count, rules, per_unit = task
    log = _Wished(is_silent=True)
    records = chain.from_iterable(read_sources([source], log) for source in sources)
    units, shards = list[Unit](), list[Shard]()
    try:
        for event in input_pass(records, rules, per_unit):
            if isinstance(event, Unit):
                units.append(event)
            else:
                shards.append(event)
    except InputError:
        return None
    shard = shards[0]
    if log.unnamed or len(shards) > 1 or len(shard.records) != count:
        return None
    texts = [(b"\n".join([*unit.dna, *unit.protein]), unit.rows) for unit in units]
    return _Read([*zip(*shard.records, strict=True)], shard.chunks, shard.orfs, texts, log)


def read_inputs(
    sources: Sequence[Source], rules: Rules, per_unit: int, workers: int = 1,
    log: ReadLog | None = None,
) -> Iterator[Unit | Shard]:  # fmt: skip
    """Units and shards of all samples, as `input_pass` makes them of `read_sources`.

    From 2 on, so many `workers` read the shards of large inputs. From the first shard on that is
    not one of short records, or has anything wrong, all is read here, and told as ever.
    """
    log = ReadLog() if log is None else log
    size = sum(path.stat().st_size for source in sources for path in source.paths)
    records = units = 0
    if workers > 1 and rules.is_sampled is None and size >= LEAST_BYTES:
        met = ReadLog(is_silent=log.is_silent)
        joint_ids = IdRegistry() if len(sources) > 1 else None
        mates, endings = sources[0].mates, sources[0].endings
        sample = None
        for read in _side_by_side(sources, rules, per_unit, workers, log, met):
            if read is None:
                break
            for name in ("gaps", "digits", "blanks", "marks"):
                setattr(met, name, getattr(met, name) + getattr(read.log, name))
            met.first_mark = met.first_mark or read.log.first_mark
            rows = [*map(RecordRow._make, zip(*read.records, strict=True))]
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
            shard = Shard(rows, read.chunks, read.orfs, [])
            for text, of_shard in read.units:
                lines, count = text.split(b"\n"), len(of_shard)
                shard.units.append((units, count))
                yield Unit(units, lines[:count], lines[count:], of_shard)
                units += 1
            records += len(rows)
            yield shard
        else:
            log.gaps, log.digits, log.blanks = met.gaps, met.digits, met.blanks
            met.warn()
            return
        log.bytes_read = 0
    rest = islice(read_sources(sources, log), records, None)
    yield from input_pass(rest, rules, per_unit, workers, first_unit=units)


def _side_by_side(
    sources: Sequence[Source], rules: Rules, per_unit: int, workers: int, log: ReadLog,
    met: ReadLog,
) -> Iterator[_Read | None]:  # fmt: skip
    """Shards in order, at the end None where something stood in the way."""

    def windows() -> Iterator[list[Task]]:
        shards = _shards(sources, log, met)
        while window := [(*shard, rules, per_unit) for shard in islice(shards, workers)]:
            yield window

    windowed = windows()
    try:
        first = next(windowed, None)
        if first is None:
            yield None
            return
        with children_ignore_interrupts():
            pool = multiprocessing.get_context("spawn").Pool(workers)
        yield from map_in_order(pool, read_shard, chain([first], windowed))
    except (InputError, OverflowError):
        yield None


def _shards(
    sources: Sequence[Source], log: ReadLog, met: ReadLog
) -> Iterator[tuple[list[Source], int]]:
    """The text of each shard, by sample, and its records; at an error of the input it ends."""
    size = passing.SHARD_RECORDS + passing.SHARD_RECORDS % 2  # mates stay together
    shard, room = list[Source](), size
    for source in sources:
        with ExitStack() as stack:
            opened = [stack.enter_context(open_unpacked(p, log.count_bytes)) for p in source.paths]
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
            found = [one.finish() for one in opened]
            if source.digests and found != list(source.digests):
                raise InputError(source.names[0], "changed during the run")
            names = zip(opened, source.names, strict=True)
            met.cut_short += [shown_name(name) for one, name in names if one.is_cut_short]
    if shard:
        yield shard, size - room
