"""Poison work is tried again, then set aside and reported; the rest is kept; resume mends it."""

from __future__ import annotations

import os
import signal

import faults
from runs import descendants, results, wait_for


def statuses(out):
    """Status of each record in calls.tsv."""
    header, *rows = (out / "calls.tsv").read_text().splitlines()
    column = header.split("\t").index("status")
    return [row.split("\t")[column] for row in rows]


def expect_partial(running, out, label):
    """The run is done in part; returns the lines of its failed units in failed_files.txt."""
    assert running.code == 6, running.said
    *lines, sums = (out / "failed_files.txt").read_text().splitlines()
    assert all(len(line.split("|")) == 3 and line.split("|")[1] == label for line in lines)
    assert sums.split("|")[:2] == [str(out / "calls.tsv"), "calls"]
    return lines


def expect_mended(runs, out, undisturbed, *options):
    """A resume does what had failed, and nothing of the failure remains."""
    assert runs.finish(out, "--resume", *options).code == 0
    assert not (out / "failed_files.txt").exists()
    assert results(out).keys() == undisturbed.keys()


def test_a_unit_that_fails_costs_its_records_only(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    running = runs.finish(out, fault=faults.fail_on_some_units)
    lines = expect_partial(running, out, "scoring")
    assert len(lines) == 2 and {"failed", "called"} <= set(statuses(out))
    assert lines[0] == "unit 1|scoring|RuntimeError: poison / in this unit"
    expect_mended(runs, out, undisturbed)
    assert results(out) == undisturbed


def test_a_file_that_fails_costs_its_records_only(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    running = runs.finish(out, "--staged", fault=faults.fail_on_some_files)
    line, _ = expect_partial(running, out, "DNABERT-S")
    assert {"failed", "called"} <= set(statuses(out))
    assert line.endswith("output_2.fa|DNABERT-S|RuntimeError: poison / in this file")
    expect_mended(runs, out, undisturbed, "--staged")
    assert results(out) == undisturbed


def test_a_file_that_kills_workers_costs_its_records_only(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    running = runs.finish(out, "--persistent-models", fault=faults.kill_workers_with_some_files)
    lines = expect_partial(running, out, "ESM-2")
    assert len(lines) == 2 and all("exit code -9" in line for line in lines)
    assert {"failed", "called"} <= set(statuses(out))
    expect_mended(runs, out, undisturbed)


def test_a_shard_that_kills_ranks_fails_the_run_and_costs_no_other(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    packed = ("--parallel", "--ranks", "1")
    running = runs.finish(out, *packed, fault=faults.kill_ranks_with_one_shard)
    assert running.code == 1 and "ESM-2 inference failed on 1/1 workers" in running.said
    assert not (out / "calls.tsv").exists()
    shards = {path.name for path in (out / ".checkpoints").glob("esm_v2_shards/shard_*.h5")}
    assert len(shards) > 1
    expect_mended(runs, out, undisturbed, *packed)


def test_the_last_living_rank_does_the_work_of_a_killed_one(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    running = runs.start(out, "--parallel", "--ranks", "2")
    assert wait_for(lambda: (out / "esm_v2" / "logs" / "worker_1.log").exists())
    rank = next(pid for pid in descendants(running.pid) if f"pid {pid}" in log_of_rank_1(out))
    os.kill(rank, signal.SIGKILL)
    running.process.join()
    assert running.code == 0, running.said
    assert results(out).keys() == undisturbed.keys()


def log_of_rank_1(out):
    return (out / "esm_v2" / "logs" / "worker_1.log").read_text()
