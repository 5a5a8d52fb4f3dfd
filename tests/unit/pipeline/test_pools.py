"""Ordered results of a pool; the workers here are real processes without torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from virnucpro.core.errors import InputError
from virnucpro.core.processes import children_ignore_interrupts
from virnucpro.pipeline import pools
from virnucpro.pipeline.pools import ending, map_in_order


def square(number):
    return number * number


def squares_but_dies_once(task):
    number, marker = task
    if number == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def refuses_seven(number):
    if number == 7:
        raise InputError("reads.fa", "seven", 7)
    return number


def interrupt_is_ignored(_):
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.fixture
def pool():
    with children_ignore_interrupts():
        pool = multiprocessing.get_context("spawn").Pool(2)
    with ending(pool):
        yield pool
    assert not multiprocessing.active_children()


def test_results_keep_order_and_tasks_are_read_two_windows_ahead(pool):
    read = []

    def windows():
        for start in range(0, 40, 4):
            read.append(start)
            yield list(range(start, start + 4))

    results = map_in_order(pool, square, windows())
    first = [next(results) for _ in range(4)]
    assert len(read) == 2
    assert first + list(results) == [n * n for n in range(40)]


def test_a_killed_worker_costs_no_result(pool, tmp_path, caplog):
    windows = [[(n, str(tmp_path / "died")) for n in range(k, k + 5)] for k in (0, 5)]
    assert list(map_in_order(pool, squares_but_dies_once, windows)) == [n * n for n in range(10)]
    assert "a worker process was killed" in caplog.text


def test_errors_of_workers_and_of_the_source_reach_the_caller(pool):
    with pytest.raises(InputError, match="line 7: seven"):
        list(map_in_order(pool, refuses_seven, [range(10)]))

    def broken():
        yield [1, 2]
        raise InputError("reads.fa", "cut short")

    with pytest.raises(InputError, match="cut short"):
        list(map_in_order(pool, square, broken()))


def test_workers_leave_ctrl_c_to_the_parent(pool):
    assert all(map_in_order(pool, interrupt_is_ignored, [[1, 2]]))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_workers_killed_while_they_wait_block_nobody(pool):
    results = map_in_order(pool, square, ([n] for n in range(5)))
    first = next(results)
    for child in multiprocessing.active_children():
        child.kill()
    assert [first, *results] == [n * n for n in range(5)]


def large(number):
    return bytes(1 << 22)


def stop_once(task):
    number, marker = task
    if number == 3 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGSTOP)
    return number


def test_workers_killed_while_they_answer_block_nobody(pool):
    results = map_in_order(pool, large, ([n, n, n] for n in range(3)))
    next(results)
    for child in multiprocessing.active_children():
        child.kill()
    assert len(list(results)) == 8


def test_a_worker_that_hangs_costs_no_result(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "HUNG_S", 2.0)
    windows = [[(n, str(tmp_path / "stopped")) for n in range(k, k + 5)] for k in (0, 5)]
    assert list(map_in_order(pool, stop_once, windows)) == list(range(10))


def test_an_interrupt_ends_the_pool_at_once(pool):
    results = map_in_order(pool, large, ([n] for n in range(50)))
    next(results)
    results.close()
