"""Vectors of the packed engine to feature files: by row where rows are ours, else by id."""

import os
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from runs_here import peak_of
from staged_files import embeddings, orf_ids, write_published_dna

from virnucpro.core.errors import OutputError
from virnucpro.core.records import Embeddings
from virnucpro.pipeline.features import (
    DamagedFeaturesError,
    merge_features,
    read_merged,
    read_protein_features,
    write_dna_features,
    write_merged,
    write_protein_features,
)
from virnucpro.pipeline.prediction import _stream_h5_to_pt_files


def write_shards(path, ids, as_bytes=False, is_ours=False, dim=4):
    """Rows in the order of the files, as ours are, or in one that has nothing to do with it."""
    order = np.arange(len(ids)) if is_ours else np.random.default_rng(3).permutation(len(ids))
    vectors = embeddings(ids, dim).vectors
    kind = "S40" if as_bytes else h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.create_dataset("sequence_ids", data=[ids[i] for i in order], dtype=kind)
        file.create_dataset("embeddings", data=vectors[order])
    return path, vectors


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"output_{k}_DNABERT_S.pt" for k in (1, 2)]
    for k, path in enumerate(paths, start=1):
        write_dna_features(path, embeddings(orf_ids(k), 3, seed=k))
    return paths


@pytest.mark.parametrize("is_ours", [False, True], ids=["by id", "by row"])
@pytest.mark.parametrize("as_bytes", [False, True], ids=["str", "bytes"])
def test_rows_go_to_their_files_and_merge(tmp_path, files, as_bytes, is_ours):
    h5, vectors = write_shards(tmp_path / "e.h5", orf_ids(1) + orf_ids(2), as_bytes, is_ours)
    written = _stream_h5_to_pt_files(h5, tmp_path / "out", files)
    for k, path in enumerate(written):
        rows = read_protein_features(path)
        assert rows.seq_ids == tuple(orf_ids(k + 1))
        np.testing.assert_array_equal(rows.vectors, vectors[5 * k : 5 * k + 5])
        merged = read_merged(merge_features(files[k], path, tmp_path / "m.pt"))
        np.testing.assert_array_equal(merged.vectors[:, 3:], rows.vectors)


def test_outputs_follow_the_order_and_the_names_of_the_nucleotide_files(tmp_path, files):
    plain = tmp_path / "output_7_DNABERT.pt"
    write_published_dna(plain, orf_ids(7), dim=3)
    h5, _ = write_shards(tmp_path / "e.h5", orf_ids(2) + orf_ids(7))
    written = _stream_h5_to_pt_files(h5, tmp_path / "out", [plain, files[1]])
    assert [path.name for path in written] == ["output_7_ESM.pt", "output_2_ESM.pt"]
    assert read_protein_features(written[0]).seq_ids == tuple(orf_ids(7))


def test_a_missing_id_is_warned_of_and_loses_no_other_row(tmp_path, files, caplog):
    ids = [seq_id for seq_id in orf_ids(1) if not seq_id.endswith("chunk_2F1")]
    h5, vectors = write_shards(tmp_path / "e.h5", ids)
    [path] = _stream_h5_to_pt_files(h5, tmp_path / "out", files[:1])
    assert "Sequence contig1_chunk_2F1 not found in v2.0 ESM-2 output" in caplog.text
    rows = read_protein_features(path)
    assert rows.seq_ids == tuple(ids)
    np.testing.assert_array_equal(rows.vectors, vectors)


def test_a_write_that_fails_leaves_whole_files_only(tmp_path, files, monkeypatch):
    h5, _ = write_shards(tmp_path / "e.h5", orf_ids(1) + orf_ids(2))
    real, calls = os.fsync, []

    def full_at_the_third(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:  # a file and its folder, then the second file
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full_at_the_third)
    with pytest.raises(OutputError, match="No space left"):
        _stream_h5_to_pt_files(h5, tmp_path / "out", files)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["output_1_ESM.pt"]


def test_memory_is_that_of_one_file_not_of_all(tmp_path):
    count, per_file, dim = 20, 100, 1280
    ids = [orf_ids(k, per_file) for k in range(count)]
    paths = [tmp_path / f"output_{k}_DNABERT_S.pt" for k in range(count)]
    for names, path in zip(ids, paths, strict=True):
        write_dna_features(path, embeddings(names, 1))
    flat = [seq_id for names in ids for seq_id in names]
    h5, _ = write_shards(tmp_path / "e.h5", flat, dim=dim)
    one_file = per_file * dim * 4
    _, peak = peak_of(lambda: _stream_h5_to_pt_files(h5, tmp_path / "out", paths))
    assert one_file < peak < 6 * one_file < h5.stat().st_size / 3


@pytest.mark.parametrize("count", [0, 1, 1100])
def test_dna_file_has_the_published_layout(tmp_path, count):
    ids = [f"contig|ä {row}" for row in range(count)]
    rows = Embeddings(
        tuple(ids), np.geomspace(1e-42, 3e38, 7, dtype="f4") * np.ones((count, 1), "f4")
    )
    write_dna_features(tmp_path / "f.pt", rows)
    with zipfile.ZipFile(tmp_path / "f.pt") as archive:
        content = pickle.loads(archive.read("archive/data.pkl"))
    data = [
        {"label": seq_id, "mean_representation": row.tolist()}
        for seq_id, row in zip(ids, rows.vectors, strict=True)
    ]
    marks = {"version": "1.0", "status": "complete"}
    assert content == {"nucleotide": ids, "data": data, **marks}
    assert torch.load(tmp_path / "f.pt", weights_only=True) == content


@pytest.mark.parametrize("count", [0, 2])
def test_tensors_are_where_the_published_layout_has_them(tmp_path, count):
    rows = embeddings(orf_ids(1, count), 3)
    write_protein_features(tmp_path / "p.pt", rows)
    write_merged(tmp_path / "m.pt", rows, "digest")
    protein = torch.load(tmp_path / "p.pt", weights_only=True)
    merged = torch.load(tmp_path / "m.pt", weights_only=True)
    assert protein["proteins"] == merged["ids"] == orf_ids(1, count)
    assert (protein["version"], protein["status"]) == ("1.0", "complete")
    assert all(row.shape == (3,) and row.dtype == torch.float32 for row in protein["data"])
    np.testing.assert_array_equal([*map(np.asarray, protein["data"])], [*rows.vectors])
    np.testing.assert_array_equal(merged["data"].numpy(), rows.vectors)
    torch.save(merged, tmp_path / "again.pt")  # a whole tensor, with a storage of its own
    np.testing.assert_array_equal(read_merged(tmp_path / "again.pt").vectors, rows.vectors)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"data": []}, "no `proteins` and `data`"),
        ({"proteins": ["a"], "data": []}, "1 ids for data"),
        ({"proteins": ["a", "a"], "data": [torch.ones(2), torch.ones(2)]}, "occurs twice"),
        ({"proteins": ["a", "b"], "data": [torch.ones(2), torch.ones(3)]}, "one width"),
        ({"proteins": ["a", "b"], "data": [*torch.ones(2, 2).T]}, "one after the other"),
        ({"proteins": [*map(str, range(40))], "data": [torch.ones(9_000)] * 40}, "rows claim"),
    ],
)
def test_wrong_layout_is_named(tmp_path, content, problem):
    torch.save(content, tmp_path / "f.pt")
    with pytest.raises(DamagedFeaturesError, match=problem):
        read_protein_features(tmp_path / "f.pt")
