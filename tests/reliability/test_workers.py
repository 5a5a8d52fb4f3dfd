"""Poison work is tried again, then set aside and reported; the rest is kept; resume mends it."""

import faults
from runs import results


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
