"""Every sequence lands in one batch, no batch is dearer than its budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engines.toys import MeanEncoder, expected, make_items, vectors_of
from virnucpro.core.errors import DeviceError, SequenceTooLongError
from virnucpro.encoders.layouts import RectangleLayout
from virnucpro.engines.base import EngineOptions, make_engine
from virnucpro.engines.plans import PackedPlan, PaddedPlan, batches_within, collate, pack, segments
from virnucpro.engines.runner import Forward

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


def fixed_vectors(layout, items):
    """A batch brought to a fixed shape, which holds what the encoder gives each item alone."""
    encoder = MeanEncoder()
    fixed = layout.fixed(collate(items), 1_024)
    vectors = encoder(fixed)[: len(items)].detach().numpy()
    np.testing.assert_allclose(vectors, expected(encoder, items), rtol=1e-5)
    return fixed


@pytest.mark.parametrize("lengths", [[300, 400, 200], [64] * 16, [1] * 20 + [900], [1000]])
def test_a_packed_batch_of_fixed_shape_gives_the_same_vectors(lengths):
    fixed = fixed_vectors(PackedPlan(pad_id=0), make_items(lengths))
    assert len(fixed.tokens) == 1_024
    assert len(fixed.cu_seqlens) == segments(1_024) + 1
    assert int(fixed.cu_seqlens.diff().max()) <= fixed.longest
    assert fixed.longest % 128 == 0


def test_batches_of_a_budget_have_few_shapes():
    packed, padded = PackedPlan(pad_id=0), PaddedPlan(pad_id=0)
    fixed = [
        fixed_vectors(packed, make_items(lengths))
        for lengths in ([200] * 5, [30] * 26 + [199], [90] * 10)
    ]
    assert len({(f.tokens.shape, f.cu_seqlens.shape, f.longest) for f in fixed}) == 1
    rectangle = fixed_vectors(padded, make_items([30, 28, 31] * 9))
    assert RectangleLayout.of(rectangle, 0).shapes == ((32, 32),)
    for layout in (packed, padded):  # mostly padding: better left as it is
        assert layout.fixed(collate(make_items([30] * 4)), 1_024) is None


def test_the_compiler_is_used_when_asked_and_changes_no_vector(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **how: calls.append(how))
    encoder, items = MeanEncoder(), make_items([100, 90, 60] * 20)
    options = EngineOptions(compile="on", token_budget=1_024)
    engine = make_engine("packed", encoder, device=torch.device("cpu"), options=options)
    found = vectors_of(engine.embed(items), len(items))
    assert calls == [{"dynamic": False}]
    assert engine.stats.compiled
    np.testing.assert_allclose(found, expected(encoder, items), rtol=1e-5)


class Uncompilable(MeanEncoder):
    """Fails while `broken` is set, as a compiler without a C compiler does."""

    broken = True

    def compile(self, **options):
        self._compiled_call_impl = None

    def forward(self, batch):
        if self.broken:
            self.broken = False
            raise RuntimeError("no C compiler")
        return super().forward(batch)


def test_a_failing_compiler_is_an_error_only_where_it_was_asked_for(caplog):
    items = make_items([64] * 16)
    ready = collate(items)
    insisting, tolerant = (Forward(Uncompilable(), torch.device("cpu")) for _ in range(2))
    insisting.compile(insist=True)
    with pytest.raises(DeviceError, match="no C compiler"):
        insisting(ready, fixed=True)
    tolerant.compile(insist=False)
    assert tolerant(ready, fixed=True).shape == (16, 4)
    assert not tolerant.compiles
    assert "no C compiler" in caplog.text
