import random
from collections import Counter

import pytest
from tiny_home import make_tiny_home

from virnucpro.core.records import Record
from virnucpro.models import specs
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.run import orfs_per_unit
from virnucpro.sequences.chunks import chunk_windows
from virnucpro.tools.estimate import (
    EvenSample,
    Pilot,
    PilotFailedError,
    estimate,
    run_pilots,
    smallest_pilot,
    survey,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return resolve_model("500", None, make_tiny_home(tmp_path_factory.mktemp("estimate") / "home"))


def records(lengths, seed=3):
    rng = random.Random(seed)
    return [
        Record(f"r{i}", f"r{i}", "".join(rng.choices("ACG", k=length)))
        for i, length in enumerate(lengths)
    ]


def test_survey_counts_what_the_pipeline_would(model):
    lengths = [100, 500, 501, 2300, 2]
    found = survey(records(lengths), model)
    assert (found.records, found.scored, found.nt) == (5, 4, sum(lengths))
    assert found.chunks == sum(len(chunk_windows(n, 500)) for n in lengths[:4]) == 9
    assert found.orfs > 0 and found.dna_tokens > found.orfs
    assert found.protein_tokens > 2 * found.orfs
    assert min(map(len, found.sample)) == 100
    assert survey(records([100, 600]), model, min_length=200).scored == 1
    found = survey([], model)
    assert (found.records, found.chunks, found.orfs, found.sample) == (0, 0, 0, [])


def test_every_chunk_is_as_likely_to_be_sampled():
    drawn = Counter()
    for seed in range(400):
        sample = EvenSample(10, seed)
        for record in records([1000] * 20 + [20_000], seed=1):
            sample.offer(record, chunk_windows(len(record.sequence), 500))
        assert sample.seen == 80 and len(sample.items) == 10
        drawn.update(sample.items)  # no two chunks are alike
    expected = 400 * 10 / 80
    assert len(drawn) == 80
    assert all(abs(count - expected) < 5 * expected**0.5 for count in drawn.values())


def linear(start, per_chunk, asked):
    def run(chunks):
        asked.append(chunks)
        return Pilot(chunks, start + per_chunk * chunks, 1_000_000 + 100 * chunks)

    return run


@pytest.mark.parametrize("per_chunk", [0.0001, 0.002, 0.5])
def test_a_linear_cost_is_found_exactly(model, per_chunk):
    found = survey(records([500] * 3000), model)
    asked = []
    result = estimate(found, 10_000, 100, linear(4.0, per_chunk, asked))
    assert result.seconds == pytest.approx(4.0 + 3000 * per_chunk)
    assert asked == sorted(asked) and asked[0] == 100
    assert sum(4.0 + per_chunk * chunks for chunks in asked) < 180


def test_slow_models_are_tried_on_few_chunks_only(model):
    found = survey(records([500] * 3000), model)
    asked = []
    estimate(found, 10_000, 4, linear(60.0, 4.0, asked))
    assert asked == [4, 8, 16]


def test_memory_grows_no_further_than_a_unit_of_work(model):
    found = survey(records([500] * 3000), model)
    asked = []
    result = estimate(found, 200, 100, linear(4.0, 0.05, asked))
    assert asked[-1] < 3000
    assert result.memory < 1_000_000 + 100 * 3000


def test_memory_of_a_first_batch_is_not_taken_for_growth(model):
    found = survey(records([500] * 3000), model)

    def run(chunks):
        memory = 1_000_000 + 1_000 * min(chunks, 200) + 10 * chunks
        return Pilot(chunks, 4.0 + 0.02 * chunks, memory)

    assert estimate(found, 18_000, 100, run).memory == 1_000_000 + 200_000 + 30_000


def test_a_small_input_is_measured_whole(model):
    found = survey(records([500] * 7), model)
    result = estimate(found, 10_000, 100, linear(4.0, 0.1, []))
    assert result.measured and result.seconds == pytest.approx(4.7)


def test_units_of_a_large_model_on_a_cpu_are_small(model, monkeypatch):
    assert model.weight_bytes > 10_000 and not model.is_large
    assert smallest_pilot(model, on_cpu=True) == 100
    assert orfs_per_unit(None, True, model) == orfs_per_unit(None, False, model) == 10_000
    monkeypatch.setattr(specs, "_LARGE_BYTES", 10_000)
    assert (smallest_pilot(model, on_cpu=True), smallest_pilot(model, on_cpu=False)) == (4, 100)
    assert [orfs_per_unit(None, on_cpu, model) for on_cpu in (True, False)] == [100, 10_000]
    assert orfs_per_unit(7, True, model) == 7


def test_a_failing_pilot_says_why(model):
    found = survey(records([500]), model)
    with pytest.raises(PilotFailedError, match="custom needs --model-path"):
        run_pilots(found, ["-m", "custom"])(1)
