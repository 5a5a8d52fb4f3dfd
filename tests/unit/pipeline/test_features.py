"""A split file to a file of vectors: rows in file order, equal to each sequence alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from staged_files import tiny_dna_encoder, tiny_protein_encoder, write_split_files

from virnucpro.core.errors import InputError
from virnucpro.pipeline.feature_files import (
    read_dna_features,
    read_protein_features,
    read_vectors,
)
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.scores.scorer import EmbeddingOptions, LoadedModels
from virnucpro.sequences.fasta_files import read_fasta

READERS = {"dna": read_dna_features, "protein": read_protein_features, "shard": read_vectors}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """{slot: (encoder, split file)}."""
    folder = tmp_path_factory.mktemp("features")
    [dna], [protein] = write_split_files(folder, 1)
    return {
        "dna": (tiny_dna_encoder(folder / "weights" / "dna"), dna),
        "protein": (tiny_protein_encoder(folder / "weights" / "protein"), protein),
    }


@pytest.fixture(params=["dna", "protein"])
def slot(request, work):
    return request.param, *work[request.param]


def embedded(encoder, file, output, layout, models=None, **options):
    """Vectors of one file, and what its task told while it worked."""
    job = EmbedJob(encoder, EmbeddingOptions(**options))
    task = job.task(models or LoadedModels("cpu"))
    unit = SplitFile(input_file=file, output_file=output, layout=layout)
    steps, told = task.run(task.prepare(unit)), []
    try:
        while True:
            told.append(next(steps))
    except StopIteration as end:
        rows, tokens = end.value
    found = READERS[layout](output)
    assert rows == len(found) == sum(told)
    assert models or tokens == task.stats()[encoder.kind]["tokens"]
    return found, told


def test_rows_are_in_file_order_and_equal_one_sequence_at_a_time(slot, tmp_path):
    layout, encoder, file = slot
    models = LoadedModels("cpu")
    rows, told = embedded(encoder, file, tmp_path / "f.pt", layout, models, token_budget=64)
    assert len(told) > 1
    sequences = dict(read_fasta(file))
    assert rows.seq_ids == tuple(sequences)
    for name, vector in zip(rows.seq_ids, rows.vectors, strict=True):
        (tmp_path / "one.fa").write_text(f">{name}\n{sequences[name]}\n")
        alone, _ = embedded(encoder, tmp_path / "one.fa", tmp_path / "1.pt", layout, models)
        np.testing.assert_allclose(alone.vectors[0], vector, atol=2e-5)
    packed, _ = embedded(encoder, file, tmp_path / "p.pt", layout, models, engine="packed")
    np.testing.assert_allclose(packed.vectors, rows.vectors, atol=2e-5)
    assert models.loads == 1


def test_a_shard_holds_the_rows_of_the_published_file(work, tmp_path):
    encoder, file = work["protein"]
    one, _ = embedded(encoder, file, tmp_path / "f.pt", "protein")
    two, _ = embedded(encoder, file, tmp_path / "f.h5", "shard")
    assert one.seq_ids == two.seq_ids
    np.testing.assert_array_equal(one.vectors, two.vectors)


def test_an_id_that_occurs_twice_is_refused_before_any_work(slot, tmp_path):
    layout, encoder, _ = slot
    (tmp_path / "f.fa").write_text(">a one\nACA\n>a two\nACC\n")
    with pytest.raises(InputError, match=r"f\.fa: a sequence id occurs twice"):
        embedded(replace(encoder, path=tmp_path), tmp_path / "f.fa", tmp_path / "f.pt", layout)


@pytest.mark.parametrize("layout", ["own", "shard"])
def test_a_file_without_sequences_gives_a_file_without_rows(slot, tmp_path, layout):
    name, encoder, _ = slot
    (tmp_path / "f.fa").write_text("")
    layout = name if layout == "own" else layout
    rows, _ = embedded(encoder, tmp_path / "f.fa", tmp_path / "out", layout)
    assert rows.seq_ids == ()
