"""A scorer: distinct ORFs in, a row of scores for each out, whatever the batches."""

import numpy as np
import pytest

from virnucpro.models.store import resolve_model
from virnucpro.scores.scorer import COLUMNS, EmbeddingOptions, LoadedModels, Scorer, finished

ORFS = [b"ATGGCC" * k + b"A" * (k % 3) for k in range(1, 13)]
PROTEINS = [b"MA" * k for k in range(1, 13)]


@pytest.fixture(scope="module")
def model(tiny_home):
    return resolve_model("500", None, tiny_home)


def scores_of(scorer, dna=ORFS, protein=PROTEINS):
    return finished(scorer.run(scorer.prepare((dna, protein))))


@pytest.fixture(scope="module")
def alone(model):
    """Scores of each ORF computed in a unit of its own."""
    scorer = Scorer(model, LoadedModels("cpu"))
    pairs = zip(ORFS, PROTEINS, strict=True)
    return np.concatenate([scores_of(scorer, [dna], [protein]) for dna, protein in pairs])


@pytest.mark.parametrize("engine", ["padded", "packed"])
@pytest.mark.parametrize("budget", [None, 40])
def test_packed_equals_padded_equals_each_orf_alone(model, alone, engine, budget):
    options = EmbeddingOptions(engine=engine, token_budget=budget)
    scorer = Scorer(model, LoadedModels("cpu"), options, options, classifier_batch=5)
    found = scores_of(scorer)
    assert found.shape == (len(ORFS), COLUMNS)
    np.testing.assert_allclose(found[:, :2], alone[:, :2], atol=1e-5)
    np.testing.assert_allclose(found[:, :2].sum(axis=1), 1, atol=1e-5)
    assert np.isnan(found[:, 2:]).all()  # this classifier knows no null
    assert len({row.tobytes() for row in found}) == len(ORFS)
    stats = scorer.stats()
    assert {stats[slot]["layout"] for slot in ("dna", "protein")} == {engine}
    if budget:
        for slot in ("dna", "protein"):
            assert stats[slot]["token_budget"] == budget
            assert stats[slot]["slots"] <= stats[slot]["batches"] * 80  # the longest alone


def test_every_orf_is_told_of_once_and_there_are_signs_of_life_after(model):
    options = EmbeddingOptions(token_budget=40)
    scorer = Scorer(model, LoadedModels("cpu"), options, options)
    told = list(scorer.run(scorer.prepare((ORFS, PROTEINS))))
    assert sum(told) == len(ORFS)
    assert told[-1] == 0 and len(told) > 4


class Careless:
    """An engine that leaves a row out."""

    def embed(self, items):
        yield np.array([0, 2]), np.ones((2, 1), np.float32)


def test_a_row_without_a_vector_is_an_error(model, monkeypatch):
    models = LoadedModels("cpu")
    monkeypatch.setattr(models, "engine", lambda spec, options: Careless())
    with pytest.raises(RuntimeError, match="1 rows got no vector, first 1"):
        scores_of(Scorer(model, models), ORFS[:3], PROTEINS[:3])
