"""Calls in memory equal those of a run."""

from dataclasses import replace

import numpy as np
import pytest
from runs_here import write_dna

from virnucpro.core.records import FRAMES, Record
from virnucpro.models.store import resolve_model
from virnucpro.pipeline import direct
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.scores.scorer import LoadedModels, Scorer, finished
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
