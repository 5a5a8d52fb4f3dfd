"""What thresholds do to calls."""

from __future__ import annotations

import pytest

from virnucpro.scores.thresholds import Thresholds, thresholds

CALLS = ("virus", "non-virus", "uncertain")


@pytest.mark.parametrize("call", CALLS)
def test_without_thresholds_the_model_decides(call):
    assert Thresholds().call(call, p_virus=0.7, fdr=0.9) == call


@pytest.mark.parametrize(
    ("model_call", "p_virus", "fdr", "call"),
    [
        ("virus", 0.80, 0.01, "virus"),
        ("virus", 0.79, 0.01, "uncertain"),
        ("uncertain", 0.80, 0.01, "virus"),
        ("uncertain", 0.79, 0.01, "uncertain"),
        ("non-virus", 0.10, 0.01, "non-virus"),
        ("virus", 0.90, 0.10, "virus"),
        ("virus", 0.90, 0.11, "uncertain"),
        ("non-virus", 0.10, 0.90, "non-virus"),
    ],
)
def test_both_bounds_hold_and_include_their_limit(model_call, p_virus, fdr, call):
    assert Thresholds(min_score=0.8, max_fdr=0.1).call(model_call, p_virus, fdr) == call


def test_a_preset_gives_way_to_numbers():
    assert thresholds(None) == Thresholds()
    assert thresholds("conservative", min_score=0.7).min_score == 0.7
    assert thresholds("conservative", min_score=0.7).max_fdr == thresholds("conservative").max_fdr
    relaxed, strict = thresholds("relaxed"), thresholds("conservative")
    assert relaxed.call("uncertain", 0.6, 0.5) == "virus"
    assert strict.call("virus", 0.95, 0.01) == "virus"
    assert strict.call("uncertain", 0.95, 0.01) == "uncertain"
    assert strict.call("virus", 0.6, 0.01) == strict.call("virus", 0.99, 0.5) == "uncertain"


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match="min_score"):
        Thresholds(min_score=value)
