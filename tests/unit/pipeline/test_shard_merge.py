"""The merged file is taken as it is, made again, or an error: never doubtful vectors."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from virnucpro.core.records import Embeddings
from virnucpro.engines.shards import MergedWriter, ShardDamagedError, committed
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.sequence_index import build_index
from virnucpro.pipeline.shard_merge import ShardMerge

PLAIN, FORCED = RuntimeConfig(), RuntimeConfig(force_restart=True)


@pytest.fixture
def merge(tmp_path):
    """A merged file of one shard, and what looks after it."""
    merged = tmp_path / "embeddings.h5"
    rows = Embeddings(("a", "b"), np.ones((2, 3), dtype=np.float32))
    with committed(merged) as file:
        writer = MergedWriter(file, 2, 3)
        writer.add(rows, lambda found: True)
        writer.finish({"key": "key"})
    return ShardMerge(merged, tmp_path, "key", build_index([]), [np.arange(2)])


def test_a_whole_file_is_finished(merge):
    assert merge.is_finished(PLAIN)


def test_no_file_or_one_of_another_key_is_simply_not_finished(merge):
    other = ShardMerge(merge.merged, merge.shard_dir, "other", merge.index, merge.plan)
    assert not other.is_finished(PLAIN)
    merge.merged.unlink()
    assert not merge.is_finished(PLAIN)


def change_a_vector(path):
    with h5py.File(path, "r+") as file:
        file["embeddings"][1, 2] = 7


def cut_it_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def write_over_it(path):
    path.write_bytes(b"no HDF5")


@pytest.mark.parametrize("damage", [change_a_vector, cut_it_short, write_over_it])
def test_a_damaged_file_is_an_error_unless_it_may_be_made_again(merge, damage):
    damage(merge.merged)
    with pytest.raises(ShardDamagedError, match=r"embeddings\.h5: .*--force-resume"):
        merge.is_finished(PLAIN)
    assert not merge.is_finished(FORCED)
