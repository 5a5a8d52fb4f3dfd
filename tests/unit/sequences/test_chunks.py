"""Chunk windows: the published plan, and what holds for every length."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virnucpro.core.records import Record, Status
from virnucpro.sequences.chunks import chunk_windows, even_windows
from virnucpro.sequences.letters import screen_record

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


@settings(deadline=None)
@given(length=st.integers(0, 20_000), chunk_nt=st.integers(20, 700))
def test_even_windows_are_the_same_from_either_end(length, chunk_nt):
    windows = even_windows(length, chunk_nt)
    assert windows == [(length - end, length - start) for start, end in reversed(windows)]
    covered = 0
    for start, end in windows:
        assert start <= covered < end
        assert min(length, chunk_nt) <= end - start <= chunk_nt + 1
        covered = end
    assert covered == length
    assert len(windows) <= 1.5 * len(chunk_windows(length, chunk_nt))


PROTEIN = "MKVLATPLEGHIRSDQWFYC" * 5


@pytest.mark.parametrize(
    ("sequence", "status"),
    [
        ("", Status.TOO_SHORT),
        ("ACGT" * 14 + "ACG", Status.TOO_SHORT),
        ("ACGU" * 15, None),
        ("N" * 500, Status.AMBIGUOUS),
        ("ACGTN" * 100, Status.AMBIGUOUS),
        ("N" * 500 + "ACGT" * 15 + "N" * 500, None),
        (PROTEIN, Status.NOT_DNA),
        ("ACGT" * 22 + "AC" + "E" * 11, Status.NOT_DNA),
        ("ACGT" * 22 + "AC" + "E" * 10, None),
        ("é" * 100, Status.NOT_DNA),
    ],
)
def test_a_record_is_held_back_for_the_first_reason(sequence, status):
    assert screen_record(Record("r", "r", sequence)) == status
