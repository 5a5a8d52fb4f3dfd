"""A split file to a file of vectors: rows in file order, equal to each sequence alone."""

from dataclasses import replace

import numpy as np
import pytest
from staged_files import tiny_dna_encoder, tiny_protein_encoder, write_split_files

from virnucpro.core.errors import InputError
from virnucpro.pipeline import feature_files
from virnucpro.pipeline.features import EmbedJob, SplitFile
from virnucpro.scores.scorer import EmbeddingOptions, LoadedModels
from virnucpro.sequences.fasta_files import read_fasta

READERS = {
    "dna": feature_files.read_dna_features,
    "protein": feature_files.read_protein_features,
    "shard": feature_files.read_vectors,
}


@pytest.fixture(scope="module", params=["dna", "protein"])
def slot(request, tmp_path_factory):
    """Layout, encoder and split file of one slot."""
    folder = tmp_path_factory.mktemp("features")
    make = {"dna": tiny_dna_encoder, "protein": tiny_protein_encoder}[request.param]
    files = dict(zip(("dna", "protein"), write_split_files(folder, 1), strict=True))
    return request.param, make(folder / "weights"), files[request.param][0]


def embedded(encoder, file, output, layout, models=None, **options):
    """Vectors of one file, and what its task told while it worked."""
    task = EmbedJob(encoder, EmbeddingOptions(**options)).task(models or LoadedModels("cpu"))
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
    for form, options in ((layout, {"engine": "packed"}), ("shard", {})):
        other, _ = embedded(encoder, file, tmp_path / "other", form, models, **options)
        assert other.seq_ids == rows.seq_ids
        np.testing.assert_allclose(other.vectors, rows.vectors, atol=2e-5)
    assert models.loads == 1


def test_an_id_that_occurs_twice_is_refused_before_any_work(slot, tmp_path):
    layout, encoder, _ = slot
    (tmp_path / "f.fa").write_text(">a one\nACA\n>a two\nACC\n")
    with pytest.raises(InputError, match=r"f\.fa: a sequence id occurs twice"):
        embedded(replace(encoder, path=tmp_path), tmp_path / "f.fa", tmp_path / "f.pt", layout)
