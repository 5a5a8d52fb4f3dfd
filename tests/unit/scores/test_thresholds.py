"""What thresholds do to calls."""

from __future__ import annotations

import pytest

from virnucpro.scores.thresholds import Thresholds, thresholds

BOTH, RELAXED, STRICT = Thresholds(0.8, 0.1), thresholds("relaxed"), thresholds("conservative")


@pytest.mark.parametrize(
    ("asked", "model_call", "p_virus", "fdr", "call"),
    [
        *((Thresholds(), call, 0.7, 0.9, call) for call in ("virus", "non-virus", "uncertain")),
        (BOTH, "virus", 0.80, 0.01, "virus"),
        (BOTH, "virus", 0.79, 0.01, "uncertain"),
        (BOTH, "uncertain", 0.80, 0.01, "virus"),
        (BOTH, "uncertain", 0.79, 0.01, "uncertain"),
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
