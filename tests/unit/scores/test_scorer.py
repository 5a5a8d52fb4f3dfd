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
