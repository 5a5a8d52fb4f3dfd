"""What every engine promises: each row exactly once, the right vector, whatever happens."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from virnucpro.core.errors import DeviceError, ModelError
from virnucpro.encoders.base import Encoder, Tiled
from virnucpro.engines.base import EngineOptions, choose_dtype, pack, rectangles, spread
from virnucpro.engines.runner import LARGEST_BUDGET, SMALLEST_BUDGET, BatchEngine, budget_by_memory

DIM = 4


class MeanEncoder(Encoder):
    """The mean of one learned row a token; what a batch holds besides cannot matter."""

    dim, pad_id, backend = DIM, 0, Tiled.backend

    def __init__(self, vocabulary: int = 32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.rows = nn.Parameter(torch.randn(vocabulary, DIM, generator=generator))

    def lay_out(self, items) -> Tiled:
        return Tiled.of(items, self.pad_id)

    def encode(self, layout: Tiled) -> Tensor:
        return layout.mean(self.rows[layout.tokens], 0)


def make_items(lengths, seed=0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(1, 31, n) for n in lengths]


def expected(encoder: MeanEncoder, items: list[np.ndarray]) -> np.ndarray:
    rows = encoder.rows.detach().numpy()
    return np.array([rows[item].mean(0) for item in items])


def vectors_of(batches, count: int) -> np.ndarray:
    """Vectors of all rows, shape (count, d); fails on a row that comes twice or never."""
    found = np.full((count, DIM), np.nan, np.float32)
    for rows, vectors in batches:
        assert np.isnan(found[rows]).all(), f"one of {rows} came twice"
        found[rows] = vectors
    assert np.isfinite(found).all()
    return found


CPU = torch.device("cpu")
LENGTHS = [3, 1, 50, 20, 7, 7, 7, 30, 64, 63, 2] * 3
HOT = np.array([31, 4, 5])  # no other item holds token 31


@pytest.fixture(params=["padded", "packed"])
def kind(request):
    return request.param


def engine_of(kind, encoder, budget=64, exact=None, **options):
    options = EngineOptions(token_budget=budget, **options)
    return BatchEngine(kind, encoder, device=CPU, options=options, float32_encoder=exact)


def assert_embeds(engine, encoder, items):
    """Every row of `items` comes once, with the vector that `encoder` gives it alone."""
    found = vectors_of(engine.embed(items), len(items))
    np.testing.assert_allclose(
        found, expected(encoder, items).reshape(-1, DIM), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("budget", [63, 64, 65, 1_000])
def test_rows_in_are_rows_out_exactly_once(kind, threads, budget):
    encoder, items = MeanEncoder(), make_items(LENGTHS)
    engine = engine_of(kind, encoder, budget, feeding_threads=threads)
    assert_embeds(engine, encoder, items)
    assert engine.stats.sequences == len(items)
    assert engine.stats.tokens == sum(LENGTHS) <= engine.stats.slots
    assert engine.stats.slots <= engine.stats.batches * (max(budget, 64) + 15)


def test_a_sequence_without_tokens_is_refused(kind):
    with pytest.raises(ValueError, match="row 1 has no tokens"):
        list(engine_of(kind, MeanEncoder()).embed(make_items([3, 0])))


def test_a_caller_that_stops_in_the_midst_leaves_no_thread_and_a_sound_engine(kind):
    encoder, items = MeanEncoder(), make_items(LENGTHS * 20)
    engine = engine_of(kind, encoder)
    before = threading.active_count()
    batches = engine.embed(items)
    next(batches)
    batches.close()
    assert threading.active_count() == before
    assert_embeds(engine, encoder, items)


class NeedyEncoder(MeanEncoder):
    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def encode(self, layout):
        if layout.tokens.numel() > self.most:
            raise torch.OutOfMemoryError("simulated")
        return super().encode(layout)


@pytest.mark.parametrize("most", [64, 100, 129])
def test_out_of_memory_halves_the_budget_and_loses_nothing(kind, most):
    encoder, items = NeedyEncoder(most), make_items(LENGTHS)
    engine = engine_of(kind, encoder, 1_024)
    assert_embeds(engine, encoder, items)
    assert engine.stats.token_budget < 1_024
    halvings = engine.stats.oom_halvings
    assert halvings >= 1
    assert_embeds(engine, encoder, items)
    assert engine.stats.oom_halvings == halvings


def test_no_memory_for_one_sequence_is_a_device_error(kind):
    with pytest.raises(DeviceError, match="one sequence of 64 tokens"):
        list(engine_of(kind, NeedyEncoder(10)).embed(make_items([50])))


class OverflowingEncoder(MeanEncoder):
    def encode(self, layout):
        vectors = super().encode(layout)
        if self.rows.dtype == torch.float32:
            return vectors
        return vectors * torch.where((layout.tokens == 31).any(), torch.inf, 1.0)


def test_a_batch_with_inf_is_computed_again_in_float32(kind):
    encoder = OverflowingEncoder().bfloat16()
    items = [*make_items([8] * 20), HOT]
    engine = engine_of(kind, encoder, 32)
    found = vectors_of(engine.embed(items), len(items))
    np.testing.assert_allclose(found, expected(encoder.float(), items), rtol=1e-5)
    assert 1 <= engine.stats.recomputed < engine.stats.batches


def test_nan_in_float32_too_names_the_row(kind):
    encoder = MeanEncoder()
    with torch.no_grad():
        encoder.rows[31] = torch.nan
    with pytest.raises(ModelError, match="row 2: NaN or Inf"):
        list(engine_of(kind, encoder).embed([*make_items([4, 9]), HOT]))


@pytest.mark.parametrize(
    ("free", "per_token", "budget"),
    [(60 << 30, 1e5, LARGEST_BUDGET), (2 << 30, 1e5, 8_192), (1 << 20, 1e6, SMALLEST_BUDGET)],
)
def test_the_budget_is_a_power_of_two_that_fits(free, per_token, budget):
    assert budget_by_memory(per_token, free) == budget


@pytest.mark.parametrize(
    ("name", "device", "chosen"),
    [
        ("auto", "cuda", torch.float16), ("auto", "cpu", torch.float32),
        ("bfloat16", "cuda", torch.bfloat16), ("fp8", "cuda", torch.float16),
    ],
)  # fmt: skip
def test_dtype_follows_device_and_wish(name, device, chosen):
    assert choose_dtype(name, torch.device(device)) is chosen


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_spread_is_map_and_reads_no_further_ahead_than_it_may(threads):
    read = []

    def given(n):
        for x in range(n):
            read.append(x)
            yield x

    for n in (0, 1, 9, 50):
        assert list(spread(lambda x: x * x, given(n), threads)) == [x * x for x in range(n)]
    read.clear()
    results = spread(lambda x: x, given(100), threads)
    next(results)
    assert len(read) <= max(1, 2 * threads)
    results.close()


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


@pytest.mark.parametrize("plan", [rectangles, pack])
def test_a_plan_leaves_a_sequence_beyond_the_budget_alone(plan):
    batches = [batch.tolist() for batch in plan(np.array([3, 65, 7, 129, 2]), BUDGET)]
    assert batches == [[3], [1], [2, 0, 4]]


def test_rows_much_narrower_than_the_first_begin_another_rectangle():
    batches = rectangles(np.array([100, 80, 76, 75, 74, 40]), 1_000, 0.75)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2, 3], [4], [5]]
