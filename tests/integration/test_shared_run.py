"""plan, worker, finish and status in this process: the same bytes, and what each refuses."""

import json
import os
import shutil
import threading
from functools import partial
from types import SimpleNamespace

import pytest
from runs_here import TINY, rows_of, tables, write_dna
from tiny_published import write_classifier

from virnucpro.core.storage import Folder
from virnucpro.models.store import install_local
from virnucpro.pipeline import input_pass
from virnucpro.pipeline import shared_run as claims
from virnucpro.pipeline.shared_run import Claims, latest_claims
from virnucpro.pipeline.stream import ScoreStore


@pytest.fixture
def shared(command, tmp_path):
    """The command on an input of many units, `in.fa`; `local` holds what predict makes of it."""
    fasta = write_dna(tmp_path / "in.fa", [900, 300, 40, 700, 500, 300])
    command("predict", fasta, *TINY, "-o", tmp_path / "local", "-t", "1", "--no-report")
    planned = ["plan", fasta, *TINY, "-o", tmp_path / "run", "--no-report", "-d", "cpu"]
    return partial(command, *planned), command, tmp_path / "run"


WORK = ("-t", "1", "-d", "cpu", "--lease", "1")


def test_tables_are_those_of_a_local_run(shared, tmp_path):
    plan, command, out = shared
    plan("--block", "2")
    now = json.loads(command("status", out, "--json").output)
    assert now["planned"] and now["units"] > 3 and now["done"] == 0
    refused = command("finish", out, code=2)
    assert f"{now['units']} of {now['units']} units are left" in refused.output
    done = command("worker", out, *WORK)
    assert f"{now['units']} were scored here" in done.output
    assert f"{now['units']} of {now['units']} units done, 0" in command("status", out).output
    command("finish", out)
    assert tables(out) == tables(tmp_path / "local")
    assert "no run that waits" in command("worker", out, code=2).output


def test_plan_and_finish_read_in_several_processes(shared, tmp_path, monkeypatch):
    plan, command, out = shared
    monkeypatch.setattr(input_pass, "LEAST_BYTES", 0)
    monkeypatch.setattr(input_pass, "SHARD_RECORDS", 2)
    monkeypatch.setattr(input_pass, "input_pass", None)  # not in this one
    plan("-t", "2")
    command("worker", out, *WORK)
    command("finish", out)
    assert tables(out) == tables(tmp_path / "local")


def test_a_unit_that_cannot_be_scored_costs_its_records_and_may_be_tried_again(
    shared, tmp_path, monkeypatch
):
    plan, command, out = shared
    plan()
    read = ScoreStore.read_orfs
    monkeypatch.setattr(ScoreStore, "read_orfs", lambda *a: ([None], []) if a[1] == 1 else read(*a))
    assert "no unit is left" in command("worker", out, *WORK).output
    assert "1 of them failed" in command("status", out).output
    command("finish", out, code=6)
    assert "failed" in {row["status"] for row in rows_of(out)}
    monkeypatch.undo()
    plan("--resume")
    assert "1 were scored here" in command("worker", out, *WORK, "--finish").output
    assert tables(out) == tables(tmp_path / "local")


def test_what_a_worker_or_the_end_refuses(shared, tiny_home, tmp_path):
    plan, command, out = shared
    assert "no run that waits" in command("worker", tmp_path, code=2).output
    assert "cannot be read again" in plan("-", code=2).output.replace("\n", " ")
    assert "by `predict` on one host" in plan("--precision", "fp8", code=2).output
    assert "mate" in plan("--interleaved", code=3).output  # the records are of no pairs
    plan("--force", "-d", "cuda")
    assert "planned for cuda, this worker has cpu" in command("worker", out, *WORK, code=2).output
    plan("--force")
    other = shutil.copytree(tiny_home, tmp_path / "home")
    shutil.rmtree(other / "500")
    install_local(write_classifier(tmp_path / "500_model.pth", bias=[1.0, 0.0]), "500", other)
    env = {"VIRNUCPRO_MODEL_DIR": str(other)}
    assert "planned with another" in command("worker", out, *WORK, code=2, env=env).output
    command("worker", out, *WORK)
    write_dna(tmp_path / "in.fa", [600])
    assert "inputs are not those" in command("finish", out, code=2).output


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(claims, "_CLOCK", lambda: clock.now)
    return clock


@pytest.fixture
def worker(tmp_path, clock):
    """Makes workers that beat when the test says so."""
    notes = Folder(tmp_path / "claims")
    return lambda: Claims(notes, lease_s=60, patience_s=900)


def taken(worker, blocks):
    return list(worker.take(blocks, worker._notes.names()))


def beat(worker, number):
    worker._notes.create(f"beat-{worker.worker}", b"")
    worker._notes.write(f"beat-{worker.worker}", worker._beat(number))


def test_a_block_has_one_holder_until_that_falls_silent(worker, clock):
    one, two = worker(), worker()
    beat(one, 1)
    assert sorted(taken(one, [0, 1])) == [(0, 0), (1, 0)]
    assert taken(two, [0, 1]) == []
    clock.now += 59
    assert taken(two, [0, 1]) == []
    beat(one, 2)
    clock.now += 59  # longer than a lease since the first look, not since the last beat
    assert taken(two, [0, 1]) == []
    clock.now += 61
    assert sorted(taken(two, [1])) == [(1, 1)]
    assert taken(worker(), [0, 1]) == []  # who comes later has not seen anything yet
    assert latest_claims(one._notes.names()) == {0: 0, 1: 1}


def test_clocks_of_others_and_of_a_stopped_onlooker_count_for_nothing(worker, clock):
    one, two = worker(), worker()
    beat(one, 1)
    taken(one, [0])
    taken(two, [0])
    clock.now += 10_000  # the onlooker was stopped; the holder went on
    beat(one, 2)
    assert taken(two, [0]) == []
    clock.now -= 5_000  # another host's clock
    beat(one, 3)
    assert taken(two, [0]) == taken(one, [0]) == []


def test_who_can_be_replaced_ends_after_ten_times_what_units_took(tmp_path, clock, monkeypatch):
    ended, notes = threading.Event(), Folder(tmp_path)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    with Claims(notes, lease_s=0.1, patience_s=900, least_s=60) as worker:
        clock.now += 20
        worker.unit_done()
        clock.now += 199
        worker.progress(5)  # rows are no unit
        assert not ended.wait(0.05)
        clock.now += 2
        assert ended.wait(5)
