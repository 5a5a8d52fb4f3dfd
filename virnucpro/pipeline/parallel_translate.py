"""Chunks -> ORFs on all cores, block after block, in order: the same for any number of workers."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from virnucpro.core.device import usable_cpus
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.pipeline.pools import map_in_order
from virnucpro.sequences.orfs import OrfPolicy, Orfs, find_orfs

BLOCKS_PER_WORKER = 4
# Handing a chunk over and taking its ORFs back costs half of finding them, so that two
# processes gain nothing.
FEWEST_WORKERS = 3
# Some 60,000 chunks take half a second here, and starting processes takes as long.
BLOCKS_BEFORE_POOL = 64

Key = TypeVar("Key")
Task = tuple[list[str], OrfPolicy]


def translate_block_worker(task: Task) -> Orfs:
    """Find the ORFs of one block in a worker process."""
    return find_orfs(*task)


def translate_blocks(
    blocks: Iterable[tuple[Key, list[str]]], policy: OrfPolicy, num_workers: int | None = None
) -> Iterator[tuple[Key, list[str], Orfs]]:
    """Find the ORFs of block after block; streams: a few blocks per worker are in memory.

    The first blocks are translated in this process, so that short inputs start no others; all
    are where `num_workers`, by default the usable CPUs, are fewer than 3.

    Yields:
        Per block, in order: its key, its chunks, their ORFs.
    """
    workers = usable_cpus() if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {workers}")
    source = iter(blocks)
    for key, chunks in source if workers < FEWEST_WORKERS else islice(source, BLOCKS_BEFORE_POOL):
        yield key, chunks, find_orfs(chunks, policy)
    waiting: deque[tuple[Key, list[str]]] = deque()

    def windows() -> Iterator[list[Task]]:
        while window := list(islice(source, workers * BLOCKS_PER_WORKER)):
            waiting.extend(window)
            yield [(chunks, policy) for _, chunks in window]

    windowed = windows()
    first = next(windowed, None)
    if first is None:
        return
    ctx = multiprocessing.get_context("spawn")
    with children_ignore_interrupts():
        pool = ctx.Pool(min(workers, len(first)))
    for orfs in map_in_order(pool, translate_block_worker, chain([first], windowed)):
        yield *waiting.popleft(), orfs
