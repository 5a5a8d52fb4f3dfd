"""Runs killed at any moment go on to the same bytes; poison work fails a run and costs no other."""

import signal
from functools import partial

import faults
import pytest
from runs import OPTIONS, Runs, entries, results, status_of, wait_for
from soak import Soak


def expect_mended(runs, out, undisturbed, *options):
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


KILL, STOP = signal.SIGKILL, signal.SIGSTOP


@pytest.fixture(scope="module")
def many(tiny_home, quick_folder):
    folder = quick_folder / "shared"
    folder.mkdir()
    runs = Runs(folder, tiny_home, per_file=3, records=24)
    local = folder / "local"
    assert runs.finish(local).code == 0
    return runs, results(local)


def ended(runs, *words):
    running = runs.command(*words)
    running.process.join()
    assert running.code == 0, running.said
    return running


def test_workers_killed_and_stopped_and_two_runs_side_by_side(many):
    runs, local = many
    run, other = runs.folder / "run", runs.folder / "other"
    for out, block in ((run, 2), (other, 3)):
        words = ["plan", runs.input, *OPTIONS, "-o", out, "--no-report", "--block", block]
        ended(runs, *words, "--device", "cpu")
    worker = ["worker", run, "-t", 1, "-d", "cpu", "--lease", 1]
    stopped = runs.command(*worker, fault=partial(faults.signal_before_commit, 1, STOP))
    assert wait_for(
        lambda: state(stopped) == "T" and list(run.glob(".checkpoints/claims/claim-*"))
    ), stopped.said
    killed = [
        runs.command(*worker, fault=partial(faults.signal_before_commit, k, KILL)) for k in (1, 2)
    ]
    beside = runs.command("worker", other, *worker[2:], "--finish")
    for one in (*killed, beside):
        one.process.join()
    assert [one.code for one in (*killed, beside)] == [-KILL, -KILL, 0], beside.said
    ended(runs, *worker)
    committed = {unit: path.stat().st_mtime_ns for unit, path in entries(run).items()}
    stopped.send(signal.SIGCONT)
    stopped.process.join()
    assert stopped.code == 0 and "another worker was first" in stopped.said
    assert "no unit is left; 0 were scored here" in stopped.said
    assert committed == {unit: path.stat().st_mtime_ns for unit, path in entries(run).items()}
    ended(runs, "finish", run)
    assert results(run) == results(other) == local
    assert not list((run / ".checkpoints").glob("claims/*"))


def state(running):
    return (status_of(running.pid) or ["gone"])[0]
