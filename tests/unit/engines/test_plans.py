"""Every sequence lands in one batch, no batch is dearer than its budget."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.engines.feeding import pack, rectangles

BUDGET = 64
lengths_lists = st.lists(st.integers(1, BUDGET), max_size=200)


@given(lengths=lengths_lists)
def test_every_sequence_lands_in_one_rectangle_within_budget(lengths):
    batches = list(rectangles(np.array(lengths, dtype=np.int64), BUDGET))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        tokens = [lengths[i] for i in batch]
        assert len(batch) * max(tokens) <= BUDGET
        assert tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize("plan", [rectangles, pack])
def test_a_sequence_beyond_the_budget_goes_alone(plan):
    batches = [batch.tolist() for batch in plan(np.array([3, 65, 7, 129, 2]), BUDGET)]
    assert batches == [[3], [1], [2, 0, 4]]


def test_rows_much_narrower_than_the_first_begin_another_rectangle():
    batches = rectangles(np.array([100, 80, 76, 75, 74, 40]), 1_000, 0.75)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4], [5]]


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
    batches = [batch.tolist() for batch in pack(np.array(lengths, dtype=np.int64), BUDGET)]
    assert batches == _first_fit_decreasing(lengths)


def test_a_million_lengths_are_packed_by_group_with_few_slots_left_empty():
    draw = np.random.default_rng(7)
    reads = np.clip(draw.normal(49, 3, 500_000).round(), 12, 50)
    contigs = np.where(draw.random(500_000) < 0.5, 166, draw.integers(10, 1_000, 500_000))
    lengths = np.concatenate([reads, contigs]).astype(int) + 2
    batches = pack(lengths, 16_384)
    assert sum(map(len, batches)) == 1_000_000
    assert lengths.sum() > 0.99 * len(batches) * 16_384
