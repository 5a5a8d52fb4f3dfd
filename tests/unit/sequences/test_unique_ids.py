"""Unique ids: exact, and in few bytes each."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from virnucpro.sequences.read_log import IdRegistry


@given(st.lists(st.sampled_from(["a", "b", "a__2", "a__3", "b__2", "a__2__2", ""]), max_size=40))
def test_every_id_is_new_and_first_comers_keep_theirs(names):
    ids = IdRegistry()
    given_out = [ids.unique(name) for name in names]
    assert len(set(given_out)) == len(names)
    for place, (name, unique) in enumerate(zip(names, given_out, strict=True)):
        if name not in given_out[:place]:
            assert unique == name
        else:
            assert unique.rpartition("__")[0] == name


def test_suffixes_count_up():
    ids = IdRegistry()
    assert [ids.unique("x") for _ in range(300)] == ["x", *(f"x__{k}" for k in range(2, 301))]


def test_an_id_is_new_only_with_all_endings():
    ids = IdRegistry()
    ids.unique("x/2")
    assert ids.unique("x", ("/1", "/2")) == "x__2"
    assert ids.unique("x", ("/1", "/2")) == "x__3"
    assert ids.unique("x/1") == "x/1"
    assert ids.unique("x__2/1") == "x__2/1__2"


def test_an_id_takes_few_bytes():
    ids = IdRegistry()
    tracemalloc.start()
    for number in range(200_000):
        ids.unique(f"read.{number}")
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    shelves = 3 * 1024 * 1024
    assert used < 12 * 200_000 + shelves
