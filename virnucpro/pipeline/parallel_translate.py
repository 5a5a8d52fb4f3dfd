"""Room 1 on all cores: many chunks -> ORFs, in order, the same for any number of workers."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from virnucpro.core.device import usable_cpus
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.core.records import Chunk, Orf
from virnucpro.pipeline.pools import ending, map_in_order
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

logger = logging.getLogger("virnucpro.pipeline.translate")

BLOCKS_PER_WORKER = 2
# Handing a chunk over and taking its ORFs back costs half of finding them, so that two
# processes gain nothing.
FEWEST_WORKERS = 3
# Some 60,000 chunks take half a second here, and starting processes takes as long.
BLOCKS_BEFORE_POOL = 32


class Task(NamedTuple):
    """A block on its way to a worker: columns, which pickle ten times faster than chunks."""

    chunk_ids: list[str]
    sequences: list[str]
    policy: OrfPolicy


class OrfColumns(NamedTuple):
    """A block's ORFs on their way back: `counts` says how many each chunk has."""

    counts: list[int]
    orf_ids: list[str]
    proteins: list[str]
    dnas: list[str]
    starts: list[int]
    ends: list[int]


def translate_block_worker(task: Task) -> OrfColumns:
    """Find the ORFs of one block in a worker process."""
    pairs = zip(task.chunk_ids, task.sequences, strict=True)
    # ORFs need neither the contig's name nor the chunk's place in it
    found = find_orfs([Chunk(name, sequence) for name, sequence in pairs], task.policy)
    orfs = [orf for of_chunk in found for orf in of_chunk]
    return OrfColumns(
        [len(of_chunk) for of_chunk in found],
        [orf.orf_id for orf in orfs],
        [orf.protein for orf in orfs],
        [orf.dna for orf in orfs],
        [orf.start for orf in orfs],
        [orf.end for orf in orfs],
    )


def translate_blocks(
    blocks: Iterable[Sequence[Chunk]],
    policy: OrfPolicy,
    num_workers: int | None = None,
) -> Iterator[list[list[Orf]]]:
    """Find the ORFs of block after block; streams: a few blocks per worker are in memory.

    The first blocks are translated in this process, so that short inputs start no others.

    Args:
        blocks: chunks in groups, some thousands each.
        policy: which reading frames count as ORFs.
        num_workers: processes; fewer than 3 work in this one, None takes every usable CPU.

    Yields:
        Per block, in order: one list of ORFs a chunk.

    Raises:
        ValueError: num_workers is below 1.
    """
    workers = usable_cpus() if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {workers}")
    source = iter(blocks)
    for block in source if workers < FEWEST_WORKERS else islice(source, BLOCKS_BEFORE_POOL):
        yield find_orfs(block, policy)
    yield from _in_processes(source, policy, workers)


def _in_processes(
    blocks: Iterator[Sequence[Chunk]], policy: OrfPolicy, workers: int
) -> Iterator[list[list[Orf]]]:
    tasks = (
        Task([chunk.chunk_id for chunk in block], [chunk.sequence for chunk in block], policy)
        for block in blocks
    )
    first = list(islice(tasks, workers * BLOCKS_PER_WORKER))
    if not first:
        return
    workers = min(workers, len(first))
    logger.debug("translating with %d workers", workers)
    ctx = multiprocessing.get_context("spawn")
    with children_ignore_interrupts():
        pool = ctx.Pool(workers)
    with ending(pool):
        for columns in map_in_order(pool, translate_block_worker, _windows(first, tasks)):
            yield _orfs(columns)


def _windows(first: list[Task], tasks: Iterator[Task]) -> Iterator[list[Task]]:
    window = first
    while window:
        yield window
        window = list(islice(tasks, len(first)))


def _orfs(columns: OrfColumns) -> list[list[Orf]]:
    orfs = map(Orf, *columns[1:])
    return [list(islice(orfs, count)) for count in columns.counts]
