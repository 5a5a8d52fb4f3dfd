"""A claim has one winner, and expires only where whoever looks has seen no beat for a lease."""

import pytest

from virnucpro.core.storage import Folder
from virnucpro.pipeline import claims
from virnucpro.pipeline.claims import MOST_HANDS, Claims, latest_claims


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(claims, "_CLOCK", clock := Clock())
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


def test_a_block_goes_from_hand_to_hand_and_says_how_often(worker, clock):
    taken(worker(), [0])
    for hands in range(1, MOST_HANDS + 1):
        heir = worker()
        taken(heir, [0])
        clock.now += 61
        assert taken(heir, [0]) == [(0, hands)]


@pytest.mark.parametrize(("idle_s", "beats"), [(10, True), (1_000, False)])
def test_a_hung_worker_has_no_beat(worker, clock, idle_s, beats, tmp_path):
    one = worker()
    one._lease_s = 0.02
    with one:
        place = tmp_path / "claims" / f"beat-{one.worker}"
        before = place.read_bytes()
        clock.now += idle_s
        one._end.wait(0.2)
    assert (place.read_bytes() != before) == beats


def test_who_is_slower_again_and_again_looks_anew(worker):
    one, two = worker(), worker()
    stale = set(one._notes.names())
    assert len(taken(one, range(100))) == 100
    tries = []
    two._claim = lambda block, hands: tries.append(block)
    assert list(two.take(range(100), stale)) == []
    assert len(tries) == 8
