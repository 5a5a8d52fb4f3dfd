"""Units to scores to shards: in input order, each unit computed once, none lost."""

import random
import zlib

import numpy as np
import pytest

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.records import Record
from virnucpro.pipeline import input_pass as passing
from virnucpro.pipeline.input_pass import Rules, Unit, input_pass
from virnucpro.pipeline.stream import ScoreStore, scored_shards
from virnucpro.pipeline.worker_loop import Done, GivenUp
from virnucpro.scores.scorer import COLUMNS
from virnucpro.sequences.orfs import OrfPolicy, find_orfs

RULES = Rules(120, OrfPolicy("longest"))


def true_score(dna):
    p = (zlib.crc32(dna) % 1_000) / 1_000
    return [1 - p, p, *[np.nan] * (COLUMNS - 2)]


def scores_of(unit):
    return np.array([true_score(dna) for dna in unit[0]], dtype=np.float32)


class Toy:
    """Computes what it is given, in an order of its own; gives some units up.

    Attributes:
        computed: keys of the units that it was given to compute.
    """

    def __init__(self, order=lambda outcomes: outcomes, poison=()):
        self.order, self.poison, self.computed = order, poison, []

    def run(self, job, items, on_rows):
        return self.order(self._outcomes(items, on_rows))

    def _outcomes(self, items, on_rows):
        for key, unit in items:
            if unit is None:
                yield Done(key, None, {}, 0)
                continue
            self.computed.append(key)
            if key in self.poison:
                yield GivenUp(key, "it would not")
            else:
                on_rows(len(unit[0]))
                yield Done(key, scores_of(unit), {}, 0)


def shuffled(seed):
    return lambda outcomes: iter(random.Random(seed).sample(found := list(outcomes), len(found)))


RECORDS = [
    Record(f"r{i}", f"r{i}", "".join(random.Random(i % 17).choices("ACGT", k=40 + 37 * (i % 9))))
    for i in range(24)
]


@pytest.fixture
def events(monkeypatch):
    """Events of five shards; some records are copies, some are too short for an ORF."""
    monkeypatch.setattr(passing, "SHARD_RECORDS", 5)
    monkeypatch.setattr(passing, "BLOCK_CHUNKS", 4)
    return lambda: input_pass(iter(RECORDS), RULES, per_unit=6)


@pytest.fixture
def units(events):
    return [event for event in events() if isinstance(event, Unit)]


@pytest.fixture
def store(tmp_path):
    return ScoreStore(Ledger(tmp_path, tmp_path / "ledger"), "key")


def expect_true_scores(found, but=()):
    """Every ORF of every record has its own score, in order; ORFs of units `but` have none."""
    records = iter(RECORDS)
    for shard, scores in found:
        mine = [next(records) for _ in shard.records]
        assert [row.seq_id for row in shard.records] == [record.seq_id for record in mine]
        unit_of = np.repeat([n for n, _ in shard.units], [size for _, size in shard.units])
        expected = []
        for chunk, frame, *_, distinct in shard.orfs.tolist():
            record, _, start, end, _ = shard.chunks[chunk].tolist()
            orfs = find_orfs([mine[record].sequence[start:end]], RULES.policy)
            dna = orfs.dna[orfs.frame.tolist().index(frame)]
            expected.append([np.nan] * COLUMNS if unit_of[distinct] in but else true_score(dna))
        np.testing.assert_allclose(scores, np.reshape(expected, (-1, COLUMNS)), atol=1e-6)
    assert next(records, None) is None


@pytest.mark.parametrize(
    "order", [iter, lambda found: reversed(list(found)), *map(shuffled, "abc")]
)
def test_shards_keep_their_order_whatever_order_outcomes_come_in(events, units, order):
    assert len(units) > 12
    expect_true_scores(scored_shards(events(), None, Toy(order), None))


def test_finished_units_are_not_computed_again(events, units, store):
    for unit in units[::3]:
        store.commit(unit.number, scores_of((unit.dna, unit.protein)))
    toy, told = Toy(shuffled("d")), []
    expect_true_scores(scored_shards(events(), store, toy, None, told.append))
    known = {unit.number for unit in units[::3]}
    assert toy.computed == [unit.number for unit in units if unit.number not in known]
    assert sum(told) == sum(map(len, units))
    again = Toy()
    expect_true_scores(scored_shards(events(), store, again, None))
    assert again.computed == []


@pytest.mark.parametrize("poison", [{0}, {3, 4}, {11}])
def test_a_unit_that_is_given_up_has_no_scores_and_is_not_done(events, units, store, poison):
    reasons = {}
    toy = Toy(shuffled("e"), poison)
    found = list(scored_shards(events(), store, toy, None, given_up=reasons))
    assert reasons == dict.fromkeys(sorted(poison), "it would not")
    expect_true_scores(found, but=poison)
    mended = Toy()
    expect_true_scores(scored_shards(events(), store, mended, None))
    assert set(mended.computed) == poison
