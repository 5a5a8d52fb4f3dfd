"""Full, read-only and locked directories: a clear error, nothing torn, and resume afterwards."""

import os
import resource
import signal
import subprocess

import pytest
from runs import descendants, entries, results, wait_for


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


def test_a_file_over_the_limit_stops_the_run_and_resume_goes_on(runs, undisturbed, tmp_path):
    running = runs.finish(tmp_path / "out", fault=limit_file_size)
    assert running.code == 1
    assert "File too large" in running.said and "Traceback" not in running.said
    assert runs.finish(tmp_path / "out", "--resume").code == 0
    assert results(tmp_path / "out") == undisturbed


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500, resource.RLIM_INFINITY))


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
