"""A stopped run ends soon, with the signal's exit code, with its children, and can go on."""

import os
import signal
import subprocess
from functools import partial

import faults
import pytest
from runs import are_gone, descendants, entries, results, wait_for

SECONDS = 10.0  # twice what is promised: the machine may have other work


def shards(out):
    return list((out / ".checkpoints").glob("*_shards/shard_*.h5"))


def has_done(out, what="scores"):
    return any(unit.startswith(what) for unit in entries(out))


def stop(running, number, seconds=SECONDS):
    """Send a signal; the exit code, once the run and its children have ended."""
    children = descendants(running.pid)
    running.send(number)
    running.process.join(seconds)
    assert are_gone(children, seconds)
    return running.code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_process_stops_and_goes_on(runs, undisturbed, tmp_path, number, code):
    out = tmp_path / "out"
    running = runs.start(out)
    assert wait_for(lambda: has_done(out))
    assert stop(running, number) == code
    assert "--resume goes on with it" in running.said and "Traceback" not in running.said
    assert has_done(out) and not (out / "calls.tsv").exists()
    assert runs.finish(out, "--resume").code == 0
    assert results(out) == undisturbed


@pytest.mark.parametrize(
    ("options", "begun", "number", "code"),
    [
        (["--persistent-models"], partial(has_done, what="dna"), signal.SIGINT, 130),
        (["--parallel", "--ranks", "2"], shards, signal.SIGTERM, 143),
    ],
    ids=["persistent", "packed"],
)
def test_worker_processes_end_with_the_run(runs, tmp_path, options, begun, number, code):
    out = tmp_path / "out"
    running = runs.start(out, *options)
    assert wait_for(lambda: begun(out) and descendants(running.pid), 150), running.said
    assert stop(running, number) == code
    assert "Traceback" not in running.said
    assert [path for path in out.rglob("*.tmp-*") if "embeddings" in path.name] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_translating_processes_end_with_the_run(runs, tmp_path, number):
    running = runs.start(tmp_path / "out", "-t", "4", fault=faults.translate_in_processes)
    assert wait_for(lambda: len(descendants(running.pid)) >= 3)
    assert stop(running, number) == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]


@pytest.mark.parametrize(("deadline", "signals", "code"), [(0.2, 1, 143), (600, 2, -15)])
def test_a_run_that_hears_nothing_ends_by_deadline_or_second_signal(
    runs, tmp_path, deadline, signals, code
):
    running = runs.start(tmp_path / "out", fault=partial(faults.be_deaf, deadline))
    assert wait_for(lambda: "begun" in running.said)
    running.send(signal.SIGTERM)
    assert wait_for(lambda: "swallowed" in running.said)
    assert signals == 1 or running.send(signal.SIGTERM)
    running.process.join(SECONDS)
    assert running.code == code


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of a size in memory; returns its folder and a way to change it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if os.geteuid() != 0 or not mount("size=200k"):
        pytest.skip("mounting a small file system takes root")
    yield folder, mount
    while subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0:
        pass


@pytest.mark.parametrize("options", [(), ("--parallel", "--ranks", "1")], ids=["v1", "packed"])
def test_a_full_disk_stops_the_run_and_resume_goes_on(runs, undisturbed, small_disk, options):
    folder, mount = small_disk
    assert options or mount("remount,size=28k")
    out = folder / "out"
    running = runs.finish(out, *options)
    assert running.code == 1
    assert "virnucpro: error: " in running.said and "No space left" in running.said
    assert "Traceback" not in running.said
    assert not (out / "calls.tsv").exists()
    assert mount("remount,size=50m")
    assert runs.finish(out, "--resume", *options).code == 0
    found = results(out)
    assert found.keys() == undisturbed.keys()
    assert options or found == undisturbed


def test_two_runs_in_one_directory_are_one_too_many(runs, undisturbed, tmp_path):
    out = tmp_path / "out"
    first = runs.start(out)
    assert wait_for(lambda: entries(out))
    for options in (["--resume"], ["--force"]):
        second = runs.finish(out, *options)
        assert second.code == 2
        assert "another run is working here" in second.said
    first.process.join()
    assert first.code == 0 and results(out) == undisturbed


def test_a_lock_goes_with_its_process_and_no_child_keeps_it(runs, tmp_path):
    out = tmp_path / "out"
    running = runs.start(out, "--persistent-models")
    assert wait_for(lambda: entries(out) and descendants(running.pid))
    children = descendants(running.pid)
    for pid in children:
        os.kill(pid, signal.SIGSTOP)
    running.send(signal.SIGKILL)
    running.process.join()
    assert runs.finish(out, "--resume").code == 0
    for pid in children:
        os.kill(pid, signal.SIGKILL)
