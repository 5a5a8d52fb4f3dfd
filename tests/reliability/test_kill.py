"""A run that is killed at any moment goes on to the same tables, byte for byte."""

from soak import Soak

SEED = 20


def test_twenty_kills_at_random_moments_change_no_byte(runs):
    report = Soak(runs, SEED, ["one process"]).go(20)
    assert report["problems"] == [] and report["resumed"] >= 8


def test_a_packed_run_killed_with_its_ranks_changes_no_byte(runs):
    assert Soak(runs, SEED, ["packed, 2 ranks"]).go(1)["problems"] == []
