import json
import math

import numpy as np
import pytest

from virnucpro.core.errors import ModelError
from virnucpro.pipeline.final_tables import viral_regions
from virnucpro.pipeline.settings import Calling
from virnucpro.reports.tables import ChunkRow
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.thresholds import PRESETS, Thresholds


def scores(*p_virus):
    return np.array([[1 - p, p, 0.0] for p in p_virus])


def called(fitted, chunk_scores, length=500):
    n = len(chunk_scores)
    p, calls = fitted.contigs(
        chunk_scores, np.full(n, length), np.zeros(n, dtype=int), np.array([n * length])
    )
    return float(p[0]), str(calls[0])


def test_without_a_calibration_it_is_the_logistic_of_the_mean_log_odds():
    p, call = called(Calibration.load(None), scores(0.9, 0.6))
    odds = (np.log(0.9 / 0.1) + np.log(0.6 / 0.4)) / 2
    assert p == pytest.approx(1 / (1 + np.exp(-odds)))
    assert call == "virus"
    three = np.array([[0.3, 0.7, np.nan], [0.6, 0.4, np.nan]])
    assert called(Calibration(), three) == called(Calibration(), three[:, :2])


def test_more_chunks_make_more_certain():
    p = [called(Calibration(gain=0.5), scores(*[0.8] * n))[0] for n in (1, 2, 5, 20)]
    assert p == sorted(p) and p[0] == pytest.approx(0.8) and p[-1] > 0.99


def test_slope_and_intercept_follow_the_length():
    fitted = Calibration(lengths_nt=(150.0, 600.0), slope=(1.0, 2.0), intercept=(0.0, 1.0))
    z = np.log(0.7 / 0.3)
    got = fitted.log_odds(scores(0.7, 0.7, 0.7), np.array([100, 300, 900]))
    assert got == pytest.approx([z, 1.5 * z + 0.5, 2 * z + 1])


@pytest.mark.parametrize(
    ("chunk", "call"),
    [
        (scores(0.2), "non-virus"), (scores(0.7), "uncertain"), (scores(0.95), "virus"),
        (np.array([[0.0, 0.65, 0.35]]), "uncertain"),
    ],
)  # fmt: skip
def test_between_the_limits_and_for_null_the_call_is_uncertain(chunk, call):
    fitted = Calibration(virus_above=(0.9,), other_below=0.5, null_above=0.3)
    assert called(fitted, chunk)[1] == call


def test_chunks_that_overlap_are_no_further_evidence():
    fitted, sizes = Calibration(gain=0.5), np.array([1000])
    three, two = (
        fitted.contigs(scores(*[0.8] * n), np.full(n, 500), np.zeros(n, dtype=int), sizes)[0]
        for n in (3, 2)
    )
    assert three == pytest.approx(two)


@pytest.mark.parametrize(
    ("p_virus", "clear", "hidden", "call"),
    [
        (0.05, 900, 0, "non-virus"), (0.05, 900, 100, "non-virus"), (0.05, 600, 400, "uncertain"),
        (1e-6, 600, 400, "non-virus"), (0.97, 600, 400, "virus"), (0.97, 140, 20, "virus"),
        (0.97, 140, 150, "uncertain"),
    ],
)  # fmt: skip
def test_n_makes_no_non_virus(p_virus, clear, hidden, call):
    one = np.array([0])
    found = Calibration().contigs(scores(p_virus), one + clear, one, one + clear, one + hidden)
    assert found[1].tolist() == [call]
    assert found[0] == pytest.approx([p_virus])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9}, {"extra": 1}, {"slope": [0.0]}, {"slope": [True]}, {"slope": []},
        {"slope": [1.0, 1.0]}, {"slope": [float("nan")]}, {"intercept": [1e300]},
        {"lengths_nt": [0]}, {"gain": 9}, {"gain": None}, {"other_below": 2},
        {"null_above": [1]}, {"virus_above": []},
        {"limit_lengths_nt": [500.0, 300.0], "virus_above": [0.5, 0.5]},
        {"limit_lengths_nt": list(range(1, 2000)), "virus_above": [0.5] * 1999},
    ],
    ids=lambda change: json.dumps(change)[:40],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(change, tmp_path):
    path = tmp_path / "calibration.json"
    Calibration().save(path, "toy")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError):
        Calibration.load(path)


BOTH, RELAXED, STRICT = Thresholds(0.8, 0.1), PRESETS["relaxed"], PRESETS["conservative"]


@pytest.mark.parametrize(
    ("asked", "model_call", "p_virus", "fdr", "call"),
    [
        *((Thresholds(), call, 0.7, 0.9, call) for call in ("virus", "non-virus", "uncertain")),
        (BOTH, "virus", 0.80, 0.01, "virus"),
        (BOTH, "uncertain", 0.80, 0.01, "virus"),
        (BOTH, "non-virus", 0.10, 0.90, "non-virus"),
        (BOTH, "virus", 0.90, 0.10, "virus"),
        (BOTH, "virus", 0.90, 0.11, "uncertain"),
        (RELAXED, "uncertain", 0.6, 0.5, "virus"),
        (STRICT, "virus", 0.95, 0.01, "virus"),
        (STRICT, "uncertain", 0.95, 0.01, "uncertain"),
        (STRICT, "virus", 0.6, 0.01, "uncertain"),
        (STRICT, "virus", 0.99, 0.5, "uncertain"),
    ],
)
def test_both_bounds_hold_and_include_their_limit(asked, model_call, p_virus, fdr, call):
    assert asked.call(model_call, p_virus, fdr) == call


def test_a_preset_gives_way_to_numbers():
    assert Calling().thresholds == Thresholds()
    assert Calling(preset="conservative", min_score=0.7).thresholds == Thresholds(
        0.7, STRICT.max_fdr, True
    )


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match="min_score"):
        Thresholds(min_score=value)


def spans(*scores, is_virus=False):
    """First and last chunk of each viral stretch of a contig."""
    chunks = [ChunkRow("a", i + 1, 500 * i, 500 * i + 500, p_virus=p) for i, p in enumerate(scores)]
    found = viral_regions(chunks, 500 * len(scores), "virus" if is_virus else "non-virus")
    assert [region.number for region in found] == [*range(1, len(found) + 1)]
    return [(region.start // 500, region.end // 500) for region in found]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.9, 0.9, 0.2, 0.9, 0.1, 0.1, 0.9, 0.1), [(0, 4), (6, 7)]),  # one is bridged, not two
        ((0.1, 0.9, 0.1), [(1, 2)]),  # ends are viral chunks
        ((0.9, *[None] * 9, 0.9), [(0, 11)]),  # no score breaks nothing
        ((), []),
        ((0.5, 0.5), []),
    ],
)
def test_neighbours_merge_into_stretches(scores, expected):
    assert spans(*scores, is_virus=True) == expected


def test_a_host_contig_needs_evidence_that_grows_with_its_length():
    island = [0.95] * 3  # log-odds 2.94 each
    assert 3 * math.log(19) < math.log(1_000 / 0.05) < 4 * math.log(19)
    assert spans(*[0.05] * 20, *island) == [(20, 23)]
    assert spans(*[0.05] * 997, *island) == []
    assert spans(*[0.05] * 996, *island, 0.95) == [(996, 1_000)]


def test_a_bridged_chunk_counts_against_its_stretch():
    assert spans(0.9, 0.0, 0.9) == []
    assert spans(0.9, 0.9, 0.9) == [(0, 3)]
