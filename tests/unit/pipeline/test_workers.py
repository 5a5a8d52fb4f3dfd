"""Processes are killed, stopped, starved and fed poison; no unit is lost, and no process left."""

import multiprocessing
import os
import threading

import pytest
from runs import are_gone
from stand_ins import Squares

from virnucpro.core.errors import DeviceError, OutputError
from virnucpro.pipeline.worker_loop import LOAD_ONLY, Done, InProcess
from virnucpro.pipeline.workers import Workers, WorkerSettings

COUNT = 12


def settings(*devices, **more):
    return [WorkerSettings(device=device, **more) for device in devices]


@pytest.fixture(scope="module")
def pool():
    """Two workers for every test that may disturb them; those that are lost are replaced."""
    pool = Workers(settings("cpu", "cpu"))
    yield pool
    pids = [worker.process.pid for worker in pool.start()]
    pool.close()
    assert are_gone(pids)


@pytest.fixture(params=["in-process", "workers"])
def executor(request):
    here = request.param == "in-process"
    return InProcess("cpu") if here else request.getfixturevalue("pool")


@pytest.fixture
def job(tmp_path):
    return Squares(tmp_path)


def units(count=COUNT, **troubles):
    """Keys and units; `u3="error"` gives unit 3 that trouble."""
    for n in range(count):
        yield n, (n, troubles.get(f"u{n}", ""))


def done(executor, job, items, on_rows=lambda rows: None):
    """Results and reasons by key; an error if a key comes twice."""
    results, reasons = {}, {}
    for outcome in executor.run(job, items, on_rows):
        assert outcome.key not in results | reasons
        if isinstance(outcome, Done):
            results[outcome.key] = outcome.result
        else:
            reasons[outcome.key] = outcome.reason
    return results, reasons


def expect_squares(results, but=()):
    wanted = {n: n * n for n in range(COUNT) if n not in but}
    assert {key: square for key, (square, _) in results.items()} == wanted


def pids_of(pool):
    return [worker.process.pid for worker in pool.start()]


def test_workers_give_what_one_process_gives(pool, job):
    here, _ = done(InProcess("cpu"), job, units())
    expect_squares(here)
    assert {pid for _, pid in here.values()} == {os.getpid()}
    told = []
    there, reasons = done(pool, job, units(), told.append)
    expect_squares(there)
    pids = {pid for _, pid in there.values()}
    assert pids == set(pids_of(pool))  # each of the two, no other
    assert sum(told) == COUNT and reasons == {}
    done(pool, job, units())
    assert pids == set(pids_of(pool))  # they stay


@pytest.mark.parametrize("trouble", ["SIGKILL once", "SIGSTOP once"])
def test_a_lost_worker_is_replaced_and_no_unit_with_it(pool, job, caplog, monkeypatch, trouble):
    monkeypatch.setattr(pool, "worker_timeout", 3.0)
    before = set(pids_of(pool))
    results, reasons = done(pool, job, units(u4=trouble))
    expect_squares(results)
    assert reasons == {}
    assert len(before & set(pids_of(pool))) == 1
    first, second = job.tries(4)
    assert first in before and second != first and are_gone([first])
    reason = "exit code -9" if "KILL" in trouble else "no sign of life for 3 s"
    assert reason in caplog.text and "trying it again, alone" in caplog.text


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("error", "RuntimeError: it would not"), ("unreadable", "ValueError: cannot be read")],
)
def test_a_unit_that_fails_twice_is_given_up_and_all_others_come(executor, job, trouble, reason):
    results, reasons = done(executor, job, units(u0=trouble, u5="error once", u7=trouble))
    expect_squares(results, but={0, 7})
    assert reasons == {0: reason, 7: reason} and len(job.tries(5)) == 2
    assert len(job.tries(7)) == (2 if trouble == "error" else 0)


@pytest.mark.parametrize("trouble", ["SIGKILL", "SIGKILL while it is prepared"])
def test_a_unit_that_kills_its_worker_twice_is_given_up_alone(pool, job, trouble):
    """While it is prepared, another unit computes, which must not be blamed twice."""
    results, reasons = done(pool, job, units(u2=trouble, u7=trouble))
    expect_squares(results, but={2, 7})
    assert reasons == dict.fromkeys((2, 7), "worker process died (exit code -9)")
    for poison in (2, 7):
        assert len(set(job.tries(poison))) == len(job.tries(poison))
        assert len(job.tries(poison)) == (2 if trouble == "SIGKILL" else 0)


def no_more(source_error):
    yield 0, (0, "")
    raise source_error


@pytest.mark.parametrize(
    ("items", "error"),
    [
        (lambda: units(u3="full disk"), OutputError),  # no fault of a unit
        (lambda: no_more(KeyError("input")), KeyError),
    ],
    ids=["a full disk", "the input"],
)
def test_an_error_that_is_no_units_own_reaches_the_caller(executor, job, items, error):
    with pytest.raises(error):
        done(executor, job, items())
    expect_squares(done(executor, job, units())[0])


def test_units_are_read_no_further_than_workers_need_and_no_answer_comes_late(executor, job):
    read = []

    def source():
        for key, unit in units(100):
            read.append(key)
            yield key, unit

    outcomes = executor.run(job, source(), lambda rows: None)
    for finished in range(1, 10):
        next(outcomes)
        assert len(read) <= finished + 7  # each of two holds two and prepares one
    outcomes.close()
    expect_squares(done(executor, job, units())[0])  # no late answer meets a later caller


def test_a_worker_that_cannot_start_leaves_its_units_to_others(tmp_path, caplog):
    pool = Workers(settings("bad", "cpu"))
    try:
        results, reasons = done(pool, Squares(tmp_path, broken="bad"), units())
        expect_squares(results)
        assert reasons == {}
        assert "worker 0 cannot start: DeviceError: bad is broken" in caplog.text
    finally:
        pool.close()


@pytest.mark.parametrize("make", [lambda: InProcess("bad"), lambda: Workers(settings("bad"))])
def test_where_nobody_can_start_the_cause_is_raised(tmp_path, make):
    executor, before = make(), set(multiprocessing.active_children())
    with pytest.raises(DeviceError, match="bad is broken"):
        done(executor, Squares(tmp_path, broken="bad"), units())
    executor.close()
    assert set(multiprocessing.active_children()) <= before


class LoadsMeanwhile:
    """A job that tells when its models are being loaded."""

    def __init__(self):
        self.is_loading = threading.Event()
        self.load = self.is_loading.set

    def task(self, models):
        return self

    def prepare(self, unit):
        return unit

    def run(self, unit):
        yield 1
        return unit

    def stats(self):
        return {}


def test_models_are_loaded_while_the_first_unit_is_read_where_that_is_asked_for():
    job = LoadsMeanwhile()

    def source():
        yield LOAD_ONLY, None
        assert job.is_loading.wait(2)
        yield 0, "unit"

    (done,) = InProcess("cpu", threads=2).run(job, source(), lambda rows: None)
    assert done.result == "unit"
