"""Translation on several processes gives what one process gives, in the same order."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

from virnucpro.core.records import Chunk
from virnucpro.pipeline.parallel_translate import (
    BLOCKS_PER_WORKER,
    translate_block_worker,
    translate_blocks,
)
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

GET_CONTEXT = "virnucpro.pipeline.parallel_translate.multiprocessing.get_context"


def make_chunks(count, seed=0):
    draw = np.random.default_rng(seed)
    for k in range(count):
        sequence = "".join(draw.choice(list("ACGT"), 60 + k % 40))
        yield Chunk(f"contig{k}_chunk_1", f"contig{k}", 0, sequence)


def in_blocks(chunks, size):
    chunks = list(chunks)
    return [chunks[start : start + size] for start in range(0, len(chunks), size)]


@pytest.fixture(params=["open-frame", "longest"])
def policy(request):
    return OrfPolicy(request.param)


def test_worker_finds_the_orfs_of_its_block(policy):
    chunks = list(make_chunks(20))
    assert translate_block_worker((chunks, policy)) == find_orfs(chunks, policy)


def test_any_number_of_workers_gives_the_same_orfs_in_the_same_order(policy):
    blocks = in_blocks(make_chunks(70), 5)
    expected = [find_orfs(block, policy) for block in blocks]
    assert any(orfs for block in expected for orfs in block)
    for workers in (1, 2, 3):
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
        found = list(translate_blocks(blocks, policy, 2))
    get_context.assert_called_once_with("spawn")
    assert found == [find_orfs(block, policy) for block in blocks]
    assert all(call.args[0] is translate_block_worker for call in pool.imap.call_args_list)


def test_one_block_or_one_worker_needs_no_process(policy):
    blocks = in_blocks(make_chunks(9), 3)
    with mock.patch(GET_CONTEXT) as get_context:
        list(translate_blocks(blocks, policy, 1))
        list(translate_blocks(blocks[:1], policy, 8))
        assert list(translate_blocks([], policy, 8)) == []
    get_context.assert_not_called()


def test_blocks_are_read_as_results_are_taken():
    policy = OrfPolicy("longest")
    read = 0

    def blocks():
        nonlocal read
        for block in in_blocks(make_chunks(60), 1):
            read += 1
            yield block

    found = translate_blocks(blocks(), policy, 2)
    next(found)
    assert read <= 2 * (2 * BLOCKS_PER_WORKER)
    found.close()
    assert not multiprocessing.active_children()


def test_no_workers_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        list(translate_blocks([], OrfPolicy("longest"), 0))


def test_workers_do_not_import_torch():
    code = "import sys, virnucpro.pipeline.parallel_translate; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
