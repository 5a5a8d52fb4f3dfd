"""Feature, merged and vector files: the published layouts, written whole, read without trust."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from staged_files import embeddings, orf_ids, write_published_dna

from virnucpro.core.records import Embeddings
from virnucpro.pipeline.feature_files import (
    DamagedFeaturesError,
    merged_inputs,
    read_dna_features,
    read_merged,
    read_protein_features,
    read_vectors,
    write_dna_features,
    write_merged,
    write_protein_features,
    write_vectors,
)

WRITERS = {
    read_dna_features: write_dna_features,
    read_protein_features: write_protein_features,
    read_merged: lambda path, rows: write_merged(path, rows, "digest"),
    read_vectors: lambda path, rows: write_vectors(path, [rows], rows.vectors.shape),
}
READERS = list(WRITERS)


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


@pytest.mark.parametrize("count", [0, 1, 4])
def test_what_is_written_is_read_and_has_the_same_bytes_each_time(tmp_path, count, monkeypatch):
    rows = embeddings([f"é {seq_id}" for seq_id in orf_ids(1, count)], 5)
    for k, (reader, write) in enumerate(WRITERS.items()):
        path = tmp_path / f"{k}.pt"
        write(path, rows)
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda: 2e9)
            write(path, rows)
        assert path.read_bytes() == before
        back = reader(path)
        assert back.seq_ids == rows.seq_ids
        np.testing.assert_array_equal(back.vectors.reshape(rows.vectors.shape), rows.vectors)
    assert merged_inputs(tmp_path / "2.pt") == "digest"


def test_the_original_s_files_are_read(tmp_path):
    """A row of floats may be longer than is read at a time; each tensor has its own storage."""
    ids = orf_ids(1, 3)
    vectors = write_published_dna(tmp_path / "d.pt", ids, dim=5000)
    back = read_dna_features(tmp_path / "d.pt")
    assert back.seq_ids == tuple(ids)
    np.testing.assert_array_equal(back.vectors, vectors)
    half = np.linspace(-4, 4, 8, dtype=np.float32)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        rows = [torch.tensor(half * k, dtype=dtype) for k in (1, 2, 3)]
        torch.save({"proteins": ids, "data": rows}, tmp_path / "p.pt")
        back = read_protein_features(tmp_path / "p.pt")
        np.testing.assert_array_equal(back.vectors, torch.stack(rows).float().numpy())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, value):
    rows = embeddings(["a", "bad"], 3)
    rows.vectors[1, 2] = value
    for reader in READERS:
        WRITERS[reader](tmp_path / "f", rows)
        with pytest.raises(DamagedFeaturesError, match="vector of bad"):
            reader(tmp_path / "f")


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


def test_a_packed_record_is_refused(tmp_path):
    """A few kB could unpack to the whole memory."""
    write_published_dna(tmp_path / "f.pt", ["a"], dim=2)
    with zipfile.ZipFile(tmp_path / "f.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f/more", bytes(1 << 15))
    with pytest.raises(DamagedFeaturesError, match="packed records"):
        read_dna_features(tmp_path / "f.pt")
