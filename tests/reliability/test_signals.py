"""A stopped run ends soon, with the signal's exit code, with its children, and can go on."""

import functools
import signal

import faults
import pytest
from runs import are_gone, descendants, entries, results, wait_for

SECONDS = 10.0  # twice what is promised: the machine may have other work


def shards(out):
    return list((out / ".checkpoints").glob("*_shards/shard_*.h5"))


def has_dna_features(out):
    return any(unit.startswith("dna features") for unit in entries(out))


def is_scoring(out):
    return any(unit.startswith("scores") for unit in entries(out))


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
    assert wait_for(lambda: is_scoring(out))
    assert stop(running, number) == code
    assert "--resume goes on with it" in running.said and "Traceback" not in running.said
    assert is_scoring(out) and not (out / "calls.tsv").exists()
    assert runs.finish(out, "--resume").code == 0
    assert results(out) == undisturbed


@pytest.mark.parametrize(
    ("options", "begun", "number", "code"),
    [
        (["--persistent-models"], has_dna_features, signal.SIGINT, 130),
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
    running = runs.start(tmp_path / "out", fault=functools.partial(faults.be_deaf, deadline))
    assert wait_for(lambda: "begun" in running.said)
    running.send(signal.SIGTERM)
    assert wait_for(lambda: "swallowed" in running.said)
    assert signals == 1 or running.send(signal.SIGTERM)
    running.process.join(SECONDS)
    assert running.code == code
