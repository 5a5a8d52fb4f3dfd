"""Chunk windows: the published plan, and what holds for every length."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.sequences.chunks import chunk_windows

PLAN = Path(__file__).parents[2] / "data" / "chunk_plan.tsv"


def plan_rows():
    for line in PLAN.read_text().splitlines()[1:]:
        chunk_nt, length, count, windows = line.split("\t")
        bounds = [tuple(map(int, window.split("-"))) for window in windows.split(";")]
        yield int(length), int(chunk_nt), int(count), bounds


@pytest.mark.parametrize(("length", "chunk_nt", "count", "bounds"), list(plan_rows()))
def test_windows_follow_the_published_plan(length, chunk_nt, count, bounds):
    windows = chunk_windows(length, chunk_nt)
    assert len(windows) == count
    shown = windows if count <= 12 else windows[:6] + windows[-6:]
    assert shown == bounds


def test_the_plan_has_all_its_rows():
    assert len(list(plan_rows())) == 70


@given(length=st.integers(0, 20_000), chunk_nt=st.integers(1, 700))
def test_windows_cover_the_contig_without_a_hole(length, chunk_nt):
    windows = chunk_windows(length, chunk_nt)
    covered = 0
    for start, end in windows:
        assert start <= covered < end
        assert end - start <= chunk_nt
        covered = end
    assert covered == length
    assert all(end - start == chunk_nt for start, end in windows[:-1])
    assert all(a < b for (a, _), (b, _) in pairwise(windows))


@pytest.mark.parametrize("chunk_nt", [0, -5])
def test_a_chunk_length_below_one_is_refused(chunk_nt):
    with pytest.raises(ValueError, match="at least 1 nt"):
        chunk_windows(100, chunk_nt)
