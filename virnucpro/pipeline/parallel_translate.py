"""Chunks -> ORFs on all cores, block after block, in order: the same for any number of workers."""

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from virnucpro.core.device import usable_cpus
from virnucpro.core.processes import children_ignore_interrupts, map_in_order
from virnucpro.sequences.orfs import OrfPolicy, Orfs, find_orfs

BLOCKS_PER_WORKER = 4
FEWEST_WORKERS = 3  # to hand a chunk over costs half of finding its ORFs: two gain nothing
BLOCKS_BEFORE_POOL = 64  # take half a second here, as starting processes does

Key = TypeVar("Key")


def translate_block_worker(task: tuple[list[str], OrfPolicy]) -> Orfs:
    """Find the ORFs of one block in a worker process."""
    return find_orfs(*task)


def translate_blocks(
    blocks: Iterable[tuple[Key, list[str]]], policy: OrfPolicy, num_workers: int | None = None
) -> Iterator[tuple[Key, list[str], Orfs]]:
    """Key, chunks and ORFs of block after block; streams: a few blocks per worker are in memory.

    The first blocks are translated in this process, so that short inputs start no others; all
    are where `num_workers`, by default the usable CPUs, are fewer than 3.
    """
    workers = num_workers or usable_cpus()
    source = iter(blocks)
    for key, chunks in source if workers < FEWEST_WORKERS else islice(source, BLOCKS_BEFORE_POOL):
        yield key, chunks, find_orfs(chunks, policy)
    waiting: deque[tuple[Key, list[str]]] = deque()

    def tasks() -> Iterator[tuple[list[str], OrfPolicy]]:
        for block in source:
            waiting.append(block)
            yield block[1], policy

    window = list(islice(reader := tasks(), workers * BLOCKS_PER_WORKER))
    if not window:
        return
    ctx = multiprocessing.get_context("spawn")
    with children_ignore_interrupts():
        pool = ctx.Pool(min(workers, len(window)))
    blocks_ahead = chain(window, reader)
    for orfs in map_in_order(pool, translate_block_worker, blocks_ahead, len(window)):
        yield *waiting.popleft(), orfs
