"""Translation on several processes gives what one process gives, in the same order."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from virnucpro.core.records import Chunk, Orf
from virnucpro.pipeline import parallel_translate
from virnucpro.pipeline.parallel_translate import (
    BLOCKS_PER_WORKER,
    FEWEST_WORKERS,
    Task,
    translate_block_worker,
    translate_blocks,
)
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

GET_CONTEXT = "virnucpro.pipeline.parallel_translate.multiprocessing.get_context"


def make_chunks(count, seed=0):
    draw = np.random.default_rng(seed)
    for k in range(count):
        sequence = "".join(draw.choice(list("ACGT"), 60 + k % 40))
        yield Chunk(f"contig{k}_chunk_1", sequence)


def in_blocks(chunks, size):
    chunks = list(chunks)
    return [chunks[start : start + size] for start in range(0, len(chunks), size)]


@pytest.fixture(params=["open-frame", "longest"])
def policy(request):
    return OrfPolicy(request.param)


@pytest.fixture(autouse=True)
def no_head_start(monkeypatch):
    """Processes start with the first block."""
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)


def test_worker_finds_the_orfs_of_its_block(policy):
    chunks = list(make_chunks(20))
    task = Task([c.chunk_id for c in chunks], [c.sequence for c in chunks], policy)
    columns = translate_block_worker(pickle.loads(pickle.dumps(task)))
    expected = find_orfs(chunks, policy)
    assert columns.counts == [len(orfs) for orfs in expected]
    rows = zip(*columns[1:], strict=True)
    assert [Orf(*row) for row in rows] == [orf for orfs in expected for orf in orfs]


def test_any_number_of_workers_gives_the_same_orfs_in_the_same_order(policy):
    blocks = in_blocks(make_chunks(70), 5)
    expected = [find_orfs(block, policy) for block in blocks]
    assert any(orfs for block in expected for orfs in block)
    for workers in (1, 2, 3, 4):
        assert list(translate_blocks(iter(blocks), policy, workers)) == expected
    assert not multiprocessing.active_children()


def test_processes_are_spawned_once_and_get_blocks_by_imap(policy):
    blocks = in_blocks(make_chunks(12), 2)
    with mock.patch(GET_CONTEXT) as get_context:
        pool = get_context.return_value.Pool.return_value
        pool.__enter__.return_value = pool
        pool.imap.side_effect = lambda work, tasks, chunksize: mock.Mock(
            next=mock.Mock(side_effect=[work(task) for task in tasks])
        )
        found = list(translate_blocks(blocks, policy, 3))
    get_context.assert_called_once_with("spawn")
    assert found == [find_orfs(block, policy) for block in blocks]
    assert all(call.args[0] is translate_block_worker for call in pool.imap.call_args_list)


def test_one_worker_or_a_short_input_needs_no_process(policy, monkeypatch):
    blocks = in_blocks(make_chunks(9), 3)
    expected = [find_orfs(block, policy) for block in blocks]
    with mock.patch(GET_CONTEXT) as get_context:
        assert list(translate_blocks(blocks, policy, 1)) == expected
        assert list(translate_blocks(blocks, policy, FEWEST_WORKERS - 1)) == expected
        assert list(translate_blocks([], policy, 8)) == []
        monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 3)
        assert list(translate_blocks(blocks, policy, 8)) == expected
    get_context.assert_not_called()


def test_blocks_before_and_in_the_pool_are_all_there(policy, monkeypatch):
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 2)
    blocks = in_blocks(make_chunks(20), 4)
    assert list(translate_blocks(blocks, policy, 3)) == [find_orfs(b, policy) for b in blocks]


def test_blocks_are_read_as_results_are_taken():
    policy = OrfPolicy("longest")
    read = 0

    def blocks():
        nonlocal read
        for block in in_blocks(make_chunks(60), 1):
            read += 1
            yield block

    found = translate_blocks(blocks(), policy, 3)
    next(found)
    assert read <= 2 * (3 * BLOCKS_PER_WORKER)
    found.close()
    assert not multiprocessing.active_children()


def test_no_workers_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        list(translate_blocks([], OrfPolicy("longest"), 0))


def test_workers_do_not_import_torch():
    code = "import sys, virnucpro.pipeline.parallel_translate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
