"""A file of vectors stands under its name only when it is whole, and says so by its seal."""

from __future__ import annotations

import errno

import h5py
import numpy as np
import pytest

from virnucpro.core.errors import OutputError
from virnucpro.core.records import Embeddings
from virnucpro.engines.shards import (
    MergedWriter,
    ShardDamagedError,
    committed,
    is_whole,
    read_ids,
    read_shard,
    write_shard,
)

ABOUT = {"key": "k1", "input_digest": "i", "model_hash": "m", "dtype": "float32"}


def rows(n, start=0):
    ids = tuple(f"contig_{i}_chunk_1F1é" for i in range(start, start + n))
    return Embeddings(ids, np.random.default_rng(start).random((n, 3), dtype=np.float32))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def same(found, wanted):
    return found.seq_ids == wanted.seq_ids and np.array_equal(found.vectors, wanted.vectors)


@pytest.mark.parametrize("n", [1, 5])
def test_what_was_written_is_read(tmp_path, n):
    path = tmp_path / "shard_00000.h5"
    write_shard(path, rows(n), ABOUT)
    assert same(read_shard(path, "k1"), rows(n))
    assert read_ids(path, "k1") == rows(n).seq_ids
    with h5py.File(path) as file:
        assert {name: file.attrs[name] for name in ABOUT} == ABOUT
        assert file["embeddings"].dtype == np.float32
        assert h5py.check_string_dtype(file["sequence_ids"].dtype).length is None
    assert names(tmp_path) == [path.name]


def test_the_same_rows_make_the_same_bytes(tmp_path):
    for name in ("a.h5", "b.h5"):
        write_shard(tmp_path / name, rows(4), ABOUT)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_another_key_or_no_file_is_not_reused(tmp_path):
    path = tmp_path / "s.h5"
    assert read_shard(path, "k1") is read_ids(path, "k1") is None
    write_shard(path, rows(2), ABOUT)
    assert read_shard(path, "k2") is read_ids(path, "k2") is None


def flip_value(path):
    with h5py.File(path, "r+") as file:
        file["embeddings"][0, 0] += 1


def swap_ids(path):
    with h5py.File(path, "r+") as file:
        file["sequence_ids"][:] = file["sequence_ids"][:][::-1]


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_value, swap_ids, cut_short, empty])
def test_damage_is_found(tmp_path, damage):
    path = tmp_path / "s.h5"
    write_shard(path, rows(4), ABOUT)
    damage(path)
    for read in (read_shard, read_ids, is_whole):
        with pytest.raises(ShardDamagedError, match="force-resume"):
            read(path, "k1")


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step):
    path = tmp_path / "s.h5"
    write_shard(path, rows(2), ABOUT)

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        target = "os.fsync" if step == "fsync" else "pathlib.Path.replace"
        patch.setattr(target, fail)
        with pytest.raises(OutputError, match="No space left"):
            write_shard(path, rows(5), ABOUT)
    assert same(read_shard(path, "k1"), rows(2))
    assert names(tmp_path) == ["s.h5"]


def merge(path, parts, announced=None):
    total = sum(len(part) for part in parts) if announced is None else announced
    with committed(path) as file:
        writer = MergedWriter(file, total, 3)
        for part in parts:
            writer.add(part, lambda found: True)
        writer.finish(ABOUT)


@pytest.mark.parametrize("sizes", [[], [3], [2, 1, 4]])
def test_merged_rows_keep_the_order_of_their_shards(tmp_path, sizes):
    starts = np.cumsum([0, *sizes]).tolist()
    parts = [rows(n, start) for n, start in zip(sizes, starts, strict=False)]
    path = tmp_path / "embeddings.h5"
    merge(path, parts)
    assert is_whole(path, "k1") and not is_whole(path, "k2")
    found = read_shard(path, "k1")
    assert found.seq_ids == tuple(i for part in parts for i in part.seq_ids)
    assert np.array_equal(
        found.vectors, np.concatenate([part.vectors for part in [rows(0), *parts]])
    )


def test_a_merged_file_with_missing_or_foreign_rows_is_not_committed(tmp_path):
    path = tmp_path / "embeddings.h5"
    with pytest.raises(OutputError, match="2 of 5 vectors are missing"):
        merge(path, [rows(3)], announced=5)
    with pytest.raises(OutputError, match="other sequences"):
        merge(path, [rows(3)], announced=2)
    with pytest.raises(OutputError, match="other sequences"), committed(path) as file:
        MergedWriter(file, 3, 3).add(rows(3), lambda found: False)
    assert names(tmp_path) == []


def test_no_file_is_not_whole(tmp_path):
    assert not is_whole(tmp_path / "none.h5", "k1")


def test_a_sealed_file_of_other_content_is_damaged(tmp_path):
    path = tmp_path / "s.h5"
    with committed(path) as file:
        file.attrs["key"] = "k1"
    for read in (read_shard, read_ids):
        with pytest.raises(ShardDamagedError, match="cannot be read"):
            read(path, "k1")
