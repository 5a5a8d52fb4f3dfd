from __future__ import annotations

import numpy as np
import pytest
from staged_files import (
    tiny_dna_encoder,
    tiny_protein_encoder,
    write_split_files,
)
from virnucpro.pipeline.embedding_worker import LoadedEncoders
from virnucpro.pipeline.jobs import FeatureJob, WorkerSettings

from virnucpro.core.errors import InputError
from virnucpro.core.records import Embeddings
from virnucpro.pipeline.feature_files import read_dna_features, read_protein_features
from virnucpro.pipeline.features import (
    SequenceEmbedder,
    extract_dnabert_features,
    extract_esm_features,
)


@pytest.fixture(params=["dna", "protein"])
def kind(request, tmp_path):
    """(job, extract function, reader) for each of the two encoders."""
    dna_files, protein_files = write_split_files(tmp_path, 1)
    if request.param == "dna":
        spec, file = tiny_dna_encoder(tmp_path / "weights"), dna_files[0]
        use = extract_dnabert_features, read_dna_features
    else:
        spec, file = tiny_protein_encoder(tmp_path / "weights"), protein_files[0]
        use = extract_esm_features, read_protein_features
    output = file.with_suffix(".pt")
    return FeatureJob(
        encoder=spec, input_file=file, output_file=output, rows=6, token_budget=64
    ), *use


def read_fasta(path):
    lines = path.read_text().split("\n")
    return dict(zip((line[1:] for line in lines[:-1:2]), lines[1::2], strict=True))


def test_rows_are_in_file_order_and_equal_one_sequence_at_a_time(kind):
    job, extract, read = kind
    embedder = LoadedEncoders(WorkerSettings()).embedder(job)
    seen = []
    rows = read(extract(job.input_file, job.output_file, embedder, seen.append))
    sequences = read_fasta(job.input_file)
    assert rows.seq_ids == tuple(sequences)
    assert sum(seen) == len(rows) and len(seen) > 1
    for name, vector in zip(rows.seq_ids, rows.vectors, strict=True):
        alone = embedder.embed([name], [sequences[name]], lambda rows: None)
        np.testing.assert_allclose(alone.vectors[0], vector, atol=2e-5)


def test_packed_batches_give_the_same_vectors(kind):
    from dataclasses import replace

    job, extract, read = kind
    encoders = LoadedEncoders(WorkerSettings())
    padded = read(extract(job.input_file, job.output_file, encoders.embedder(job)))
    packed_job = replace(job, engine="packed")
    packed = read(extract(job.input_file, job.output_file, encoders.embedder(packed_job)))
    assert packed.seq_ids == padded.seq_ids
    np.testing.assert_allclose(packed.vectors, padded.vectors, atol=2e-5)
    assert encoders.loads == 1


def test_an_id_that_occurs_twice_is_refused(kind):
    job, extract, _ = kind
    job.input_file.write_text(">a\nACA\n>a\nACC\n")
    with pytest.raises(InputError, match="occurs twice"):
        extract(job.input_file, job.output_file, LoadedEncoders(WorkerSettings()).embedder(job))


def test_a_file_without_sequences_gives_a_file_without_rows(kind):
    job, extract, read = kind
    job.input_file.write_text("")
    encoders = LoadedEncoders(WorkerSettings())
    assert len(read(extract(job.input_file, job.output_file, encoders.embedder(job)))) == 0


class Letters:
    def encode(self, sequence):
        return np.frombuffer(sequence.encode(), np.uint8).astype(np.int64)


class CarelessEngine:
    """Loses a sequence, or gives one back as NaN."""

    stats = None

    def __init__(self, loses=(), spoils=()):
        self.loses, self.spoils = loses, spoils

    def embed(self, items):
        for item in items:
            if item.seq_id not in self.loses:
                value = np.nan if item.seq_id in self.spoils else 1.0
                yield Embeddings((item.seq_id,), np.full((1, 2), value, np.float32))

    def embed_units(self, units):
        raise NotImplementedError


@pytest.mark.parametrize("engine", [CarelessEngine(loses="b"), CarelessEngine(spoils="b")])
def test_a_lost_or_spoiled_vector_is_an_error(tmp_path, engine):
    (tmp_path / "f.fa").write_text(">a\nAC\n>b\nGT\n>c\nTT\n")
    embedder = SequenceEmbedder(Letters(), engine, 2)
    with pytest.raises(RuntimeError, match="1 vectors missing or not finite, first: b"):
        extract_dnabert_features(tmp_path / "f.fa", tmp_path / "f.pt", embedder)
    assert not (tmp_path / "f.pt").exists()
