"""Translation on several processes gives what one process gives, in the same order."""

import multiprocessing
import random
from unittest import mock

import pytest

from virnucpro.pipeline import parallel_translate
from virnucpro.pipeline.parallel_translate import translate_blocks
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

GET_CONTEXT = "virnucpro.pipeline.parallel_translate.multiprocessing.get_context"


def in_blocks(count, size):
    """Blocks of chunks, each under a key of its own."""
    draw = random.Random(0)
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


def test_any_number_of_workers_gives_the_same_orfs_in_the_same_order(policy, monkeypatch):
    blocks = in_blocks(70, 5)
    wanted = expected(blocks, policy)
    assert any(dna for *_, (_, dna, _) in wanted)
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 2)
    assert translated(blocks, policy, 3) == wanted
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)
    monkeypatch.setattr(parallel_translate, "find_orfs", None)  # in this process only
    assert translated(blocks, policy, 4) == wanted
    assert not multiprocessing.active_children()


def test_one_worker_or_a_short_input_needs_no_process(policy, monkeypatch):
    blocks = in_blocks(9, 3)
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 3)
    with mock.patch(GET_CONTEXT, side_effect=AssertionError("a process was started")):
        assert translated(blocks, policy, 8) == expected(blocks, policy)
        monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)
        for workers in (1, 2):
            assert translated(blocks, policy, workers) == expected(blocks, policy)
    with pytest.raises(ValueError, match="at least 1"):
        translated([], policy, 0)
