"""Every sequence lands in one batch, no batch is dearer than its budget."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.core.errors import SequenceTooLongError
from virnucpro.engines.plans import batches_within, pack, packed_cost, padded_cost

BUDGET = 64
lengths_lists = st.lists(st.integers(1, BUDGET), max_size=200)


@given(lengths=lengths_lists)
def test_every_sequence_lands_in_one_batch_within_budget(lengths):
    for cost in (padded_cost, packed_cost):
        batches = list(batches_within(lengths, BUDGET, cost))
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        for batch in batches:
            tokens = [lengths[i] for i in batch]
            assert cost(len(batch), max(tokens), sum(tokens)) <= BUDGET
            assert tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize(
    "plan",
    [lambda x: list(batches_within(x, BUDGET, padded_cost)), lambda x: pack(x, BUDGET)],
    ids=["padded", "packed"],
)
def test_a_sequence_beyond_the_budget_is_named(plan):
    with pytest.raises(SequenceTooLongError) as caught:
        plan([3, 65, 7])
    assert (caught.value.index, caught.value.tokens, caught.value.budget) == (1, 65, BUDGET)


def _first_fit_decreasing(lengths, most):
    """The rule as one would state it: each sequence, longest first, into the first that fits."""
    bins, free = [], []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = (b for b, room in enumerate(free) if room >= lengths[i] and len(bins[b]) < most)
        home = next(fits, None)
        if home is None:
            bins.append([])
            free.append(BUDGET)
            home = len(bins) - 1
        bins[home].append(i)
        free[home] -= lengths[i]
    return bins


@given(lengths=lengths_lists, most=st.one_of(st.none(), st.integers(1, 8)))
@settings(deadline=None)
def test_packing_is_first_fit_decreasing_within_both_limits(lengths, most):
    batches = [batch.tolist() for batch in pack(lengths, BUDGET, most)]
    assert batches == _first_fit_decreasing(lengths, most or len(lengths))


def test_packing_refuses_sequences_without_tokens():
    with pytest.raises(ValueError, match="at least one token"):
        pack([3, 0], BUDGET)


def _real_lengths(name, n=40_000):
    """Tokens with BOS and EOS: reads of 150 nt, chunks of 500 nt, and whole contigs mixed."""
    draw = np.random.default_rng(7)
    short = np.clip(draw.normal(49, 3, n).round(), 12, 50)
    long = np.where(draw.random(n) < 0.9, 166, draw.integers(30, 166, n))
    mixed = np.where(draw.random(n) < 0.5, long, draw.integers(10, 1000, n))
    return {"reads": short, "chunks": long, "contigs": mixed}[name].astype(int) + 2


@pytest.mark.parametrize("budget", [16_384, 65_536])
@pytest.mark.parametrize("name", ["reads", "chunks", "contigs"])
def test_packing_leaves_at_most_three_slots_in_a_hundred_empty(name, budget):
    lengths = _real_lengths(name)
    batches = pack(lengths, budget, budget // 32)
    assert sum(map(len, batches)) == len(lengths)
    assert lengths.sum() >= 0.97 * len(batches) * budget


def test_a_million_lengths_are_packed_by_group_and_not_one_by_one():
    lengths = np.tile(_real_lengths("contigs"), 25)
    batches = pack(lengths, 16_384)
    assert sum(map(len, batches)) == len(lengths) == 1_000_000
    assert lengths.sum() > 0.99 * len(batches) * 16_384
