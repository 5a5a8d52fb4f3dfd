"""Every sequence lands in one batch, no batch is dearer than its budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.core.errors import SequenceTooLongError
from virnucpro.engines.plans import PaddedPlan, batches_within, pack

BUDGET = 64
lengths_lists = st.lists(st.integers(1, BUDGET), max_size=200)


@given(lengths=lengths_lists)
def test_every_sequence_lands_in_one_rectangle_within_budget(lengths):
    batches = list(batches_within(lengths, BUDGET))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        tokens = [lengths[i] for i in batch]
        assert len(batch) * max(tokens) <= BUDGET
        assert tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize("plan", [lambda x, most: list(batches_within(x, most)), pack])
def test_a_sequence_beyond_the_budget_is_named(plan):
    with pytest.raises(SequenceTooLongError) as caught:
        plan([3, 65, 7], BUDGET)
    assert (caught.value.index, caught.value.tokens, caught.value.budget) == (1, 65, BUDGET)


def _first_fit_decreasing(lengths):
    """The rule as one would state it: each sequence, longest first, into the first that fits."""
    bins, free = [], []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        home = next((b for b, room in enumerate(free) if room >= lengths[i]), None)
        if home is None:
            bins.append([])
            free.append(BUDGET)
            home = len(bins) - 1
        bins[home].append(i)
        free[home] -= lengths[i]
    return bins


@given(lengths=lengths_lists)
@settings(deadline=None)
def test_packing_is_first_fit_decreasing(lengths):
    batches = [batch.tolist() for batch in pack(lengths, BUDGET)]
    assert batches == _first_fit_decreasing(lengths)


@pytest.mark.parametrize("budget", [64, 100, 1_000])
def test_rectangles_hold_every_sequence_once_within_the_budget(budget):
    lengths = np.random.default_rng(1).integers(1, 60, 500)
    layout = PaddedPlan(pad_id=0)
    plan = layout.plan(lengths, budget)
    assert sorted(np.concatenate(plan).tolist()) == list(range(500))
    for batch in plan:
        assert len(batch) * int(layout.slots(lengths[batch]).max()) <= budget


def test_most_rectangles_are_full_and_of_one_width():
    lengths = np.random.default_rng(1).normal(104, 4, 20_000).astype(int)
    layout = PaddedPlan(pad_id=0)
    plan = layout.plan(lengths, 16_384)
    widths = [set(layout.slots(lengths[batch]).tolist()) for batch in plan]
    assert sum(len(found) == 1 for found in widths) > 0.95 * len(plan)
    assert lengths.sum() / sum(len(b) * max(w) for b, w in zip(plan, widths, strict=True)) > 0.95


def test_a_sequence_without_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        pack([3, 0], BUDGET)


def test_a_million_lengths_are_packed_by_group_with_few_slots_left_empty():
    draw = np.random.default_rng(7)
    reads = np.clip(draw.normal(49, 3, 500_000).round(), 12, 50)
    contigs = np.where(draw.random(500_000) < 0.5, 166, draw.integers(10, 1_000, 500_000))
    lengths = np.concatenate([reads, contigs]).astype(int) + 2
    batches = pack(lengths, 16_384)
    assert sum(map(len, batches)) == 1_000_000
    assert lengths.sum() > 0.99 * len(batches) * 16_384
