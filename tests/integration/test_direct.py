"""Calls in memory equal those of a run."""

from dataclasses import replace

import numpy as np
import pytest
from runs_here import predict_here, write_dna

from virnucpro.core.records import FRAMES, Record
from virnucpro.models.store import resolve_model
from virnucpro.pipeline import direct
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.reports.tables import read_call_rows
from virnucpro.scores.scorer import EmbeddingOptions, LoadedModels, Scorer, finished
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.orfs import find_orfs


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, random_dna):
    path = write_dna(tmp_path_factory.mktemp("input") / "in.fa", [100, 499, 501, 1700, 90, 61])
    more = [f">copy\n{random_dna(1700, 3)}\n", ">short\nACGT\n", f">n\n{'N' * 99}\n"]
    path.write_text(path.read_text() + "".join(more))
    return path


@pytest.fixture
def model(tiny_home):
    return resolve_model("500", None, tiny_home)


@pytest.mark.parametrize(("policy", "engine"), [("longest", "packed"), ("open-frame", "padded")])
def test_the_same_rows_as_a_run(fasta, tmp_path, tiny_home, model, policy, engine):
    assert predict_here(tiny_home, fasta, tmp_path / "out", policy=policy) == 0
    expected = list(read_call_rows(tmp_path / "out" / "calls.tsv"))
    model = replace(model, orf_policy=replace(model.orf_policy, name=policy))
    options = EmbeddingOptions(engine=engine)
    found = list(DirectScorer(model, "cpu", options).score(read_records([fasta])))
    for row, other in zip(found, expected, strict=True):
        for name in ("seq_id", "length", "chunks", "orfs", "status", "call"):
            assert getattr(row, name) == getattr(other, name)
        assert row.p_virus == pytest.approx(other.p_virus, abs=1e-5)
    assert sum(row.p_virus is not None for row in found) >= 1


def test_vectors_are_those_of_each_orf(fasta, model, monkeypatch):
    monkeypatch.setattr(direct, "PER_UNIT", 7)  # units end within records
    model = replace(model, orf_policy=replace(model.orf_policy, name="longest"))
    records = list(read_records([fasta]))
    alone = Scorer(model, LoadedModels("cpu"))
    [(shard, vectors)] = DirectScorer(model).vectors(records)
    assert vectors.shape == (len(shard.orfs), model.dim) and len(vectors) > 40
    for row in range(0, len(vectors), 9):
        orf = shard.orfs[row]
        record, _, start, end, _ = shard.chunks[orf["chunk"]].tolist()
        found = find_orfs([records[record].sequence[start:end]], model.orf_policy)
        place = [FRAMES[f] for f in found.frame].index(FRAMES[orf["frame"]])
        unit = ([found.dna[place]], [found.protein[place]])
        expected = finished(alone.vectors(alone.prepare(unit)))[0]
        np.testing.assert_allclose(vectors[row], expected, atol=2e-5)


def test_nothing_to_score_gives_rows_without_scores(model):
    rows = list(DirectScorer(model).score([Record("a", "a", "AC"), Record("b", "b", "")]))
    found = [(row.seq_id, row.p_virus, row.call) for row in rows]
    assert found == [("a", None, None), ("b", None, None)]
