"""The index finds every sequence of every file, longest first."""

from __future__ import annotations

import pickle
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.core.errors import InputError
from virnucpro.pipeline import sequence_index
from virnucpro.pipeline.sequence_index import (
    build_index,
    hash_ids,
    read_sequences,
)
from virnucpro.pipeline.shard_plan import UNITS, plan_shards

letters = st.text("ACDEFGHIKLMX*", min_size=1, max_size=40)


def read_all(index):
    return read_sequences(index.files, index.places)


@given(
    files=st.lists(st.lists(letters, max_size=12), min_size=1, max_size=3),
    width=st.integers(1, 50),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    block=st.integers(1, 200),
)
@settings(deadline=None, max_examples=60)
def test_every_record_is_found_whatever_the_line_width(tmp_path_factory, files, width, end, block):
    folder = tmp_path_factory.mktemp("fasta")
    paths, wanted = [], {}
    for f, sequences in enumerate(files):
        text = ""
        for i, sequence in enumerate(sequences):
            lines = [sequence[k : k + width] for k in range(0, len(sequence), width)]
            text += f">r{f}.{i} a > b{end}" + end.join(lines) + end
            wanted[f"r{f}.{i}"] = sequence
        paths.append(folder / f"{f}.fa")
        paths[-1].write_bytes(text.encode())
    before = sequence_index._BLOCK_BYTES
    sequence_index._BLOCK_BYTES = block
    try:
        index = build_index(paths)
    finally:
        sequence_index._BLOCK_BYTES = before
    ids, sequences = read_all(index)
    assert dict(zip(ids, sequences, strict=True)) == wanted
    assert len(ids) == len(wanted)
    assert index.lengths.tolist() == [len(s) for s in sequences]
    assert index.lengths.tolist() == sorted(index.lengths.tolist(), reverse=True)
    assert np.array_equal(index.id_hashes, hash_ids(ids))
    assert index.digest == build_index(paths).digest


def fasta(tmp_path, text, name="a.fa"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_digest_follows_the_content_and_not_the_name(tmp_path):
    one = fasta(tmp_path, ">a\nMK\n", "1.fa")
    same = fasta(tmp_path, ">a\nMK\n", "2.fa")
    other = fasta(tmp_path, ">a\nML\n", "3.fa")
    digests = [build_index([path]).digest for path in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("MKV\n", "not FASTA"),
        (">a\nMK\n>b\n", "has no letters"),
        (">\nMK\n", "has no id"),
        (">a\nMK\n>a x\nML\n", "'a' occurs more than once"),
    ],
)
def test_broken_files_are_named(tmp_path, text, problem):
    with pytest.raises(InputError, match=problem) as caught:
        build_index([fasta(tmp_path, text)])
    assert "a.fa" in str(caught.value)


def test_an_id_may_not_occur_in_two_files(tmp_path):
    paths = [fasta(tmp_path, ">a\nMK\n", name) for name in ("1.fa", "2.fa")]
    with pytest.raises(InputError, match="occurs more than once"):
        build_index(paths)


def test_ids_with_equal_hashes_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(sequence_index, "hash", lambda value: 7, raising=False)
    index = build_index([fasta(tmp_path, ">a\nMK\n>b\nML\n")])
    assert read_all(index)[0] == ["a", "b"]


def test_a_sequence_takes_few_bytes_and_places_travel_alone(tmp_path):
    text = "".join(f">read_{i}_with_a_long_name\n{'M' * 50}\n" for i in range(1_000))
    index = build_index([fasta(tmp_path, text)])
    columns = [getattr(index.places, field.name) for field in fields(index.places)]
    held = sum(array.nbytes for array in (*columns, index.lengths, index.id_hashes))
    assert held / len(index) <= 60
    assert len(pickle.dumps(index.places.take(slice(0, 100)))) < 60 * 100


def test_no_files_and_empty_files_give_an_empty_index(tmp_path):
    assert len(build_index([])) == len(build_index([fasta(tmp_path, "")])) == 0


@pytest.mark.parametrize("n", [0, 1, 5, 16, 40])
def test_the_plan_deals_out_every_sequence_once(tmp_path, n):
    text = "".join(f">s{i}\n{'M' * (i % 9 + 1)}\n" for i in range(n))
    index = build_index([fasta(tmp_path, text)])
    plan = plan_shards(index, UNITS["esm2"])
    assert sorted(i for shard in plan for i in shard.tolist()) == list(range(n))
    assert all(len(shard) for shard in plan)
    assert len(plan) == min(n, 16)


def test_shards_are_alike_and_within_a_unit(tmp_path):
    draw = np.random.default_rng(0)
    text = "".join(f">s{i}\n{'M' * n}\n" for i, n in enumerate(draw.integers(10, 900, 20_000)))
    index = build_index([fasta(tmp_path, text)])
    unit = UNITS["esm2"]
    tokens = [int(index.lengths[s].sum()) + 2 * len(s) for s in plan_shards(index, unit)]
    assert len(tokens) > 16
    assert max(tokens) <= unit.tokens * 1.002
    assert max(tokens) - min(tokens) <= 902
