"""What every engine promises: each id exactly once, the right vector, whatever happens."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from tests.unit.engines.toys import DIM, MeanEncoder, by_id, expected, make_items
from virnucpro.core.errors import DeviceError, ModelError
from virnucpro.core.records import Tokens
from virnucpro.engines.base import EngineOptions, make_engine

CPU = torch.device("cpu")
LENGTHS = [3, 1, 50, 20, 7, 7, 7, 30, 64, 63, 2] * 3


@pytest.fixture(params=["padded", "packed"])
def kind(request):
    return request.param


def engine_of(kind, encoder, budget=64, **options):
    return make_engine(
        kind, encoder, device=CPU, token_budget=budget, options=EngineOptions(**options)
    )


def assert_equal(found, encoder, items):
    wanted = expected(encoder, items)
    assert found.keys() == wanted.keys()
    for seq_id, vector in wanted.items():
        np.testing.assert_allclose(found[seq_id], vector, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
@pytest.mark.parametrize("budget", [63, 64, 65, 1_000])
def test_ids_in_are_ids_out_exactly_once(kind, threads, budget):
    encoder, items = MeanEncoder(), make_items(LENGTHS)
    engine = engine_of(kind, encoder, budget, feeding_threads=threads)
    assert_equal(by_id(engine.embed(items)), encoder, items)
    assert engine.stats.sequences == len(items)
    assert engine.stats.tokens == sum(LENGTHS) <= engine.stats.slots


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5])
def test_every_number_of_sequences_around_a_full_batch_works(kind, n):
    encoder, items = MeanEncoder(), make_items([16] * n)
    assert_equal(by_id(engine_of(kind, encoder, 64).embed(items)), encoder, items)


def test_vectors_are_float32_rows(kind):
    batches = list(engine_of(kind, MeanEncoder().double()).embed(make_items([4, 5])))
    assert all(b.vectors.dtype == np.float32 and b.vectors.shape[1] == DIM for b in batches)


def test_a_sequence_beyond_the_budget_goes_alone(kind):
    encoder, items = MeanEncoder(), make_items([100, 5, 5])
    batches = list(engine_of(kind, encoder, 16).embed(items))
    assert_equal(by_id(batches), encoder, items)
    assert ("s0",) in [batch.seq_ids for batch in batches]


def test_short_sequences_have_batches_of_their_own(kind, monkeypatch):
    monkeypatch.setattr(MeanEncoder, "short_tokens", 7)
    encoder, items = MeanEncoder(), make_items(LENGTHS)
    short = {item.seq_id for item in items if len(item) <= 7}
    batches = list(engine_of(kind, encoder, 100).embed(items))
    assert_equal(by_id(batches), encoder, items)
    assert short
    assert {short.issuperset(b.seq_ids) for b in batches} == {True, False}
    assert all(short.issuperset(b.seq_ids) or short.isdisjoint(b.seq_ids) for b in batches)


def test_a_sequence_without_tokens_is_refused(kind):
    with pytest.raises(ValueError, match="s1 has no tokens"):
        list(engine_of(kind, MeanEncoder()).embed(make_items([3, 0])))


@pytest.mark.parametrize("threads", [0, 2])
def test_units_come_out_in_order_and_no_batch_mixes_two(kind, threads):
    encoder = MeanEncoder()
    units = [(k, make_items([5, 9, 30, 2], seed=k)) for k in range(6)]
    engine = engine_of(kind, encoder, 32, feeding_threads=threads)
    found = list(engine.embed_units(units))
    assert [key for key, _ in found] == sorted(key for key, _ in found)
    for key, items in units:
        assert_equal(by_id(b for k, b in found if k == key), encoder, items)


def test_a_finished_batch_is_not_held_back_until_the_next_one_comes(kind):
    """Whoever hands out units waits for vectors before there is a next unit."""
    answered = threading.Event()

    def units():
        yield 0, make_items([5])
        assert answered.wait(20), "the first unit was held back"
        yield 1, make_items([5])

    keys = []
    for key, _ in engine_of(kind, MeanEncoder()).embed_units(units()):
        keys.append(key)
        answered.set()
    assert keys == [0, 1]


def test_an_error_while_units_are_made_reaches_the_caller(kind):
    def units():
        yield 0, make_items([5])
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(engine_of(kind, MeanEncoder()).embed_units(units()))


class NeedyEncoder(MeanEncoder):
    """Runs out of memory above a number of token slots."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def forward(self, batch):
        if batch.tokens.numel() > self.most:
            raise torch.OutOfMemoryError("simulated")
        return super().forward(batch)


@pytest.mark.parametrize("most", [64, 100, 129])
def test_out_of_memory_halves_the_budget_and_loses_nothing(kind, most):
    encoder, items = NeedyEncoder(most), make_items(LENGTHS)
    engine = engine_of(kind, encoder, 1_024)
    assert_equal(by_id(engine.embed(items)), encoder, items)
    assert engine.stats.oom_halvings >= 1
    assert engine.stats.token_budget <= most


def test_a_smaller_budget_holds_for_later_work(kind):
    encoder = NeedyEncoder(128)
    engine = engine_of(kind, encoder, 1_024)
    list(engine.embed(make_items([16] * 64)))
    halvings = engine.stats.oom_halvings
    list(engine.embed(make_items([16] * 64)))
    assert engine.stats.oom_halvings == halvings


def test_no_memory_for_one_sequence_is_a_device_error(kind):
    with pytest.raises(DeviceError, match="one sequence of 50 tokens"):
        list(engine_of(kind, NeedyEncoder(10)).embed(make_items([50])))


class OverflowingEncoder(MeanEncoder):
    """Gives Inf for one token until its weights are float32."""

    def forward(self, batch):
        vectors = super().forward(batch)
        if self.rows.dtype == torch.float32:
            return vectors
        return torch.where((batch.tokens == 31).any(), torch.full_like(vectors, torch.inf), vectors)


def test_a_batch_with_inf_is_computed_again_in_float32(kind):
    encoder = OverflowingEncoder().bfloat16()
    items = [*make_items([8] * 20), Tokens("hot", np.array([31, 4, 5]))]
    engine = engine_of(kind, encoder, 32)
    assert_equal(by_id(engine.embed(items)), encoder.float(), items)
    assert 1 <= engine.stats.recomputed < engine.stats.batches


def test_the_given_float32_encoder_does_the_recomputing(kind):
    exact = MeanEncoder()
    engine = engine_of(
        kind, OverflowingEncoder().bfloat16(), float32_encoder=lambda: exact, feeding_threads=0
    )
    items = [Tokens("hot", np.array([31, 4, 5]))]
    assert_equal(by_id(engine.embed(items)), exact, items)


class NeedyExactEncoder(MeanEncoder):
    """Has memory for one sequence at a time."""

    def forward(self, batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("simulated")
        return super().forward(batch)


def test_recomputing_goes_on_in_halves_where_memory_is_short(kind):
    exact, hot = NeedyExactEncoder(), Tokens("hot", np.array([31, 4, 5]))
    items = [hot, *make_items([3, 3, 4, 4])]
    engine = engine_of(kind, OverflowingEncoder().bfloat16(), float32_encoder=lambda: exact)
    found = by_id(engine.embed(items))
    wanted = expected(exact, items)
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(found["hot"], wanted["hot"], rtol=1e-5)


def test_nan_in_float32_too_names_the_sequence(kind):
    encoder = MeanEncoder()
    with torch.no_grad():
        encoder.rows[31] = torch.nan
    with pytest.raises(ModelError, match="hot"):
        list(engine_of(kind, encoder).embed([Tokens("hot", np.array([31, 4]))]))


def test_stats_name_what_ran(kind):
    engine = engine_of(kind, MeanEncoder(), 256, compile="auto")
    list(engine.embed(make_items([64] * 4)))
    stats = engine.stats.as_dict()
    assert stats["layout"] == kind
    assert (stats["device"], stats["dtype"], stats["compiled"]) == ("cpu", "float32", False)
    assert stats["batches"] == 1
    assert stats["efficiency"] == 1


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValueError, match="padded or packed"):
        make_engine("ragged", MeanEncoder(), device=CPU)
