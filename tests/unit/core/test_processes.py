"""Ordered results of a pool; the workers here are real processes without torch."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from virnucpro.core import processes
from virnucpro.core.errors import InputError
from virnucpro.core.processes import children_ignore_interrupts, map_in_order


def square(number):
    return number * number


def signalled_once(task):
    """Squares; the worker that gets 3 first sends itself a signal."""
    number, how, marker = task
    if number == 3 and multiprocessing.parent_process() and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), how)
    return number * number


def interrupt_is_ignored(_):
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def large(number):
    return bytes([number]) * (1 << 22)


@pytest.fixture
def pool():
    with children_ignore_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(2)
    yield pool
    assert not multiprocessing.active_children()


def test_results_keep_order_and_tasks_are_read_two_windows_ahead(pool):
    read = []

    def tasks():
        for number in range(40):
            read.append(number)
            yield number

    results = map_in_order(pool, square, tasks(), 4)
    first = [next(results) for _ in range(4)]
    assert len(read) == 8
    assert first + list(results) == [n * n for n in range(40)]


def test_workers_leave_interrupts_to_their_parent(pool):
    assert all(map_in_order(pool, interrupt_is_ignored, [1, 2], 2))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_lost_worker_costs_no_result(pool, tmp_path, caplog, monkeypatch, how):
    if how is signal.SIGSTOP:
        monkeypatch.setattr(processes, "HUNG_S", 3.0)
    tasks = [(n, how, str(tmp_path / "lost")) for n in range(10)]
    assert list(map_in_order(pool, signalled_once, tasks, 5)) == [n * n for n in range(10)]
    assert "a worker process was killed or hangs" in caplog.text


@pytest.mark.parametrize("work", [square, large], ids=["while they wait", "while they answer"])
def test_workers_that_are_all_killed_block_nobody(pool, work):
    results = map_in_order(pool, work, range(8), 2)
    first = next(results)
    for child in multiprocessing.active_children():
        child.kill()
    assert [first, *results] == [work(n) for n in range(8)]


def test_errors_of_the_source_reach_the_caller(pool):
    def broken():
        yield from (1, 2)
        raise InputError("reads.fa", "cut short")

    with pytest.raises(InputError, match="cut short"):
        list(map_in_order(pool, square, broken(), 2))
