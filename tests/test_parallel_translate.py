"""Translation on several processes gives what one process gives, in the same order."""

from __future__ import annotations

import multiprocessing
import random
from unittest import mock

import pytest

from virnucpro.pipeline import parallel_translate
from virnucpro.pipeline.parallel_translate import (
    BLOCKS_PER_WORKER,
    translate_block_worker,
    translate_blocks,
)
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

GET_CONTEXT = "virnucpro.pipeline.parallel_translate.multiprocessing.get_context"


def in_blocks(count, size, seed=0):
    """Blocks of chunks, each under a key of its own."""
    draw = random.Random(seed)
    chunks = ["".join(draw.choices("ACGT", k=60 + k % 40)) for k in range(count)]
    return [(f"block {k}", chunks[k : k + size]) for k in range(0, count, size)]


def rows(orfs):
    columns = orfs.chunk, orfs.frame, orfs.start, orfs.end
    return [column.tolist() for column in columns], orfs.dna, orfs.protein


def translated(blocks, policy, workers):
    found = translate_blocks(iter(blocks), policy, workers)
    return [(key, chunks, rows(orfs)) for key, chunks, orfs in found]


def expected(blocks, policy):
    return [(key, chunks, rows(find_orfs(chunks, policy))) for key, chunks in blocks]


@pytest.fixture(params=["open-frame", "longest"])
def policy(request):
    return OrfPolicy(request.param)


@pytest.fixture(autouse=True)
def no_head_start(monkeypatch):
    """Processes start with the first block."""
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)


def test_any_number_of_workers_gives_the_same_orfs_in_the_same_order(policy, monkeypatch):
    blocks = in_blocks(70, 5)
    wanted = expected(blocks, policy)
    assert any(dna for *_, (_, dna, _) in wanted)
    with monkeypatch.context() as patch:
        patch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 2)
        assert translated(blocks, policy, 3) == wanted
    monkeypatch.setattr(parallel_translate, "find_orfs", None)  # in this process only
    assert translated(blocks, policy, 4) == wanted
    assert not multiprocessing.active_children()


def test_processes_are_spawned_once_and_get_blocks_by_imap(policy):
    blocks = in_blocks(12, 2)
    with mock.patch(GET_CONTEXT) as get_context:
        pool = get_context.return_value.Pool.return_value
        pool.__enter__.return_value = pool
        pool.imap.side_effect = lambda work, tasks, chunksize: mock.Mock(
            next=mock.Mock(side_effect=[work(task) for task in tasks])
        )
        assert translated(blocks, policy, 3) == expected(blocks, policy)
    get_context.assert_called_once_with("spawn")
    assert all(call.args[0] is translate_block_worker for call in pool.imap.call_args_list)


def test_one_worker_or_a_short_input_needs_no_process(policy, monkeypatch):
    blocks = in_blocks(9, 3)
    with mock.patch(GET_CONTEXT, side_effect=AssertionError("a process was started")):
        for workers in (1, 2):
            assert translated(blocks, policy, workers) == expected(blocks, policy)
        assert translated([], policy, 8) == []
        monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 3)
        assert translated(blocks, policy, 8) == expected(blocks, policy)


def test_blocks_are_read_as_results_are_taken():
    read = []

    def blocks():
        for block in in_blocks(60, 1):
            read.append(block)
            yield block

    found = translate_blocks(blocks(), OrfPolicy("longest"), 3)
    next(found)
    assert len(read) <= 2 * (3 * BLOCKS_PER_WORKER)
    found.close()
    assert not multiprocessing.active_children()


def test_no_workers_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        list(translate_blocks([], OrfPolicy("longest"), 0))
