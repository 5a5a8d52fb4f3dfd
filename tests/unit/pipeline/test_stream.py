"""Units to scores to shards: in input order, each unit computed once, none lost."""

import random
import zlib

import numpy as np
import pytest

from virnucpro.core.records import Record
from virnucpro.models.store import resolve_model
from virnucpro.pipeline import input_pass as passing
from virnucpro.pipeline.input_pass import Rules, input_pass
from virnucpro.pipeline.stream import scored_shards
from virnucpro.pipeline.worker_loop import Done
from virnucpro.scores.scorer import COLUMNS, EmbeddingOptions, LoadedModels, Scorer, finished
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

RULES = Rules(120, OrfPolicy("longest"))


def true_score(dna):
    p = (zlib.crc32(dna) % 1_000) / 1_000
    return [1 - p, p, *[np.nan] * (COLUMNS - 2)]


def scores_of(unit):
    return np.array([true_score(dna) for dna in unit[0]], dtype=np.float32)


class Toy:
    """Computes what it is given; its outcomes come in an order of its own."""

    def __init__(self, order):
        self.order = order

    def run(self, job, items, on_rows):
        return self.order(Done(key, scores_of(unit), {}, 0) for key, unit in items)


def shuffled(seed):
    return lambda outcomes: iter(random.Random(seed).sample(found := list(outcomes), len(found)))


RECORDS = [
    Record(f"r{i}", f"r{i}", "".join(random.Random(i % 17).choices("ACGT", k=40 + 37 * (i % 9))))
    for i in range(24)
]


@pytest.mark.parametrize(
    "order", [iter, lambda found: reversed(list(found)), *map(shuffled, "abc")]
)
def test_shards_keep_their_order_whatever_order_outcomes_come_in(monkeypatch, order):
    """Of five shards; some records are copies, some are too short for an ORF."""
    monkeypatch.setattr(passing, "SHARD_RECORDS", 5)
    monkeypatch.setattr(passing, "BLOCK_CHUNKS", 4)
    events = input_pass(iter(RECORDS), RULES, per_unit=6)
    records, units = iter(RECORDS), 0
    for shard, scores in scored_shards(events, None, Toy(order), None):
        mine = [next(records) for _ in shard.records]
        assert [row.seq_id for row in shard.records] == [record.seq_id for record in mine]
        units += len(shard.units)
        expected = []
        for chunk, frame, *_ in shard.orfs.tolist():
            record, _, start, end, _ = shard.chunks[chunk].tolist()
            orfs = find_orfs([mine[record].sequence[start:end]], RULES.policy)
            expected.append(true_score(orfs.dna[orfs.frame.tolist().index(frame)]))
        np.testing.assert_allclose(scores, np.reshape(expected, (-1, COLUMNS)), atol=1e-6)
    assert next(records, None) is None and units > 12


ORFS = [b"ATGGCC" * k + b"A" * (k % 3) for k in range(1, 13)]
PROTEINS = [b"MA" * k for k in range(1, 13)]


@pytest.fixture(scope="module")
def model(tiny_home):
    return resolve_model("500", None, tiny_home)


def found_by(scorer, dna=ORFS, protein=PROTEINS):
    return finished(scorer.run(scorer.prepare((dna, protein))))


@pytest.fixture(scope="module")
def alone(model):
    """Scores of each ORF computed in a unit of its own."""
    scorer = Scorer(model, LoadedModels("cpu"))
    pairs = zip(ORFS, PROTEINS, strict=True)
    return np.concatenate([found_by(scorer, [dna], [protein]) for dna, protein in pairs])


@pytest.mark.parametrize("engine", ["padded", "packed"])
@pytest.mark.parametrize("budget", [None, 40])
def test_packed_equals_padded_equals_each_orf_alone(model, alone, engine, budget):
    options = EmbeddingOptions(engine=engine, token_budget=budget)
    scorer = Scorer(model, LoadedModels("cpu"), options, options, classifier_batch=5)
    found = found_by(scorer)
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
