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
from virnucpro.scores.scorer import COLUMNS, LoadedModels, Scorer
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

RULES = Rules(120, OrfPolicy("longest"))


def true_score(dna):
    p = (zlib.crc32(dna) % 1_000) / 1_000
    return [1 - p, p, *[np.nan] * (COLUMNS - 2)]


class Toy:
    """Computes what it is given; its outcomes come in an order of its own."""

    def __init__(self, order):
        self.order = order

    def run(self, job, items, on_rows):
        return self.order(
            Done(key, np.array([*map(true_score, unit[0])], np.float32), {}, 0)
            for key, unit in items
        )


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


def test_progress_counts_the_work_of_both_encoders(tmp_path):
    """A quarter of the bundled model's work is done when the proteins are, and all at the end."""
    scorer = Scorer(resolve_model("mini", None, tmp_path), LoadedModels("cpu", 1))
    scorer.load()
    told = list(scorer.run(scorer.prepare(([b"ATGGCT" * 50] * 40, [b"MA" * 50] * 40))))
    assert 10 in np.cumsum(told) and sum(told) == 40
