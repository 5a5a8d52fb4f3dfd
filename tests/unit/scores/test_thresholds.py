"""What thresholds do to calls; viral stretches inside contigs."""

import math

import pytest

from virnucpro.scores.thresholds import Thresholds, thresholds, viral_stretches

BOTH, RELAXED, STRICT = Thresholds(0.8, 0.1), thresholds("relaxed"), thresholds("conservative")


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
    assert thresholds(None) == Thresholds()
    assert thresholds("conservative", min_score=0.7) == Thresholds(0.7, STRICT.max_fdr, True)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match="min_score"):
        Thresholds(min_score=value)


def track(*scores):
    return [(500 * i, 500 * (i + 1), p) for i, p in enumerate(scores)]


def spans(stretches):
    return [(found.start // 500, found.end // 500) for found in stretches]


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
    assert spans(viral_stretches(track(*scores), is_virus=True)) == expected


def test_a_stretch_counts_its_chunks():
    [found] = viral_stretches(track(0.9, 0.9, 0.2, 0.9), is_virus=True)
    assert (found.supporting, found.opposing) == (3, 1)
    assert math.isclose(found.mean_p, (0.9 * 3 + 0.2) / 4)


def test_a_host_contig_needs_evidence_that_grows_with_its_length():
    island = [0.95] * 3  # log-odds 2.94 each
    assert 3 * math.log(19) < math.log(1_000 / 0.05) < 4 * math.log(19)
    short, long = track(*[0.05] * 20, *island), track(*[0.05] * 997, *island)
    assert spans(viral_stretches(short, is_virus=False)) == [(20, 23)]
    assert viral_stretches(long, is_virus=False) == []
    assert len(viral_stretches(track(*[0.05] * 996, *island, 0.95), is_virus=False)) == 1


def test_a_bridged_chunk_counts_against_its_stretch():
    assert viral_stretches(track(0.9, 0.0, 0.9), is_virus=False) == []
    assert len(viral_stretches(track(0.9, 0.9, 0.9), is_virus=False)) == 1
