"""A changed file is known before the HDF5 library opens it."""

from __future__ import annotations

from unittest import mock

import h5py
import numpy as np
import pytest

from virnucpro.core.records import Embeddings
from virnucpro.engines.seals import SEAL_BYTES, is_sealed, read_seal
from virnucpro.engines.shards import ShardDamagedError, is_whole, read_shard, write_shard


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "shard.h5"
    write_shard(path, Embeddings(("a",), np.ones((1, 4), dtype=np.float32)), {"key": "k"})
    return path


def test_a_sealed_file_is_an_ordinary_hdf5_file(shard):
    found = read_seal(shard)
    assert found.key == "k" and is_sealed(shard, found)
    with h5py.File(shard) as file:
        assert file.userblock_size == SEAL_BYTES
        assert file["embeddings"].shape == (1, 4)


@pytest.mark.parametrize("place", [0, 20, SEAL_BYTES, SEAL_BYTES + 40, -1])
def test_a_changed_byte_keeps_the_library_away(shard, place):
    data = bytearray(shard.read_bytes())
    data[place] ^= 1
    shard.write_bytes(data)
    with mock.patch("h5py.File", side_effect=AssertionError("it was opened")):
        with pytest.raises(ShardDamagedError):
            read_shard(shard, "k")
        with pytest.raises(ShardDamagedError):
            is_whole(shard, "k")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff" * 600, b"[" * 600])
def test_a_file_without_a_seal_is_damaged(tmp_path, content):
    path = tmp_path / "shard.h5"
    path.write_bytes(content)
    assert read_seal(path) is None and not is_sealed(path, None)
    with pytest.raises(ShardDamagedError):
        read_shard(path, "k")


def test_a_file_of_another_key_is_passed_over(shard):
    assert read_shard(shard, "other") is None
