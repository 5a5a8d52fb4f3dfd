"""Runs killed at any moment go on to the same bytes; poison work fails a run and costs no other."""

import faults
from runs import results
from soak import Soak


def expect_mended(runs, out, undisturbed, *options):
    """A resume does what had failed, and nothing of the failure remains."""
    assert runs.finish(out, "--resume", *options).code == 0
    assert not (out / "failed_files.txt").exists()
    assert results(out).keys() == undisturbed.keys()


def test_a_shard_that_kills_ranks_fails_the_run_and_costs_no_other(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    packed = ("--parallel", "--ranks", "1")
    running = runs.finish(out, *packed, fault=faults.kill_ranks_with_one_shard)
    assert running.code == 1 and "ESM-2 inference failed on 1/1 workers" in running.said
    assert not (out / "calls.tsv").exists()
    shards = {path.name for path in (out / ".checkpoints").glob("esm_v2_shards/shard_*.h5")}
    assert len(shards) > 1
    expect_mended(runs, out, undisturbed, *packed)


SEED = 20


def test_twenty_kills_at_random_moments_change_no_byte(runs):
    report = Soak(runs, SEED, ["one process"]).go(20)
    assert report["problems"] == [] and report["resumed"] >= 8


def test_a_packed_run_killed_with_its_ranks_changes_no_byte(runs):
    assert Soak(runs, SEED, ["packed, 2 ranks"]).go(1)["problems"] == []
