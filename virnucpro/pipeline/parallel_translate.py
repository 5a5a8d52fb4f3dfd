"""Room 1 on all cores: many chunks -> ORFs, in order, the same for any number of workers."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from virnucpro.core.records import Chunk, Orf
from virnucpro.pipeline.pools import children_ignore_interrupts, map_in_order
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

logger = logging.getLogger("virnucpro.pipeline.translate")

BLOCKS_PER_WORKER = 2

Task = tuple[Sequence[Chunk], OrfPolicy]


def translate_block_worker(task: Task) -> list[list[Orf]]:
    """ORFs of one block: one list a chunk, in chunk order."""
    chunks, policy = task
    return find_orfs(chunks, policy)


def translate_blocks(
    blocks: Iterable[Sequence[Chunk]],
    policy: OrfPolicy,
    num_workers: int | None = None,
) -> Iterator[list[list[Orf]]]:
    """Find the ORFs of block after block; streams: a few blocks per worker are in memory.

    Args:
        blocks: chunks in groups, some thousands each.
        policy: which reading frames count as ORFs.
        num_workers: processes; 1 works in this process, None takes every core.

    Yields:
        Per block, in order: one list of ORFs a chunk.

    Raises:
        ValueError: num_workers is below 1.
    """
    workers = multiprocessing.cpu_count() if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {workers}")
    yield from _translated(((block, policy) for block in blocks), workers)


def _translated(tasks: Iterator[Task], workers: int) -> Iterator[list[list[Orf]]]:
    first = list(islice(tasks, workers * BLOCKS_PER_WORKER))
    if workers == 1 or len(first) < 2:
        yield from map(translate_block_worker, first)
        yield from map(translate_block_worker, tasks)
        return
    workers = min(workers, len(first))
    logger.debug("translating with %d workers", workers)
    ctx = multiprocessing.get_context("spawn")
    with children_ignore_interrupts():
        pool = ctx.Pool(workers)
    with pool:
        yield from map_in_order(pool, translate_block_worker, _windows(first, tasks))


def _windows(first: list[Task], tasks: Iterator[Task]) -> Iterator[list[Task]]:
    window = first
    while window:
        yield window
        window = list(islice(tasks, len(first)))
