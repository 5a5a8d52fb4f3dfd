"""Which records are held back, and why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.core.records import Record, Status
from virnucpro.sequences.letters import screen_record

PROTEIN = "MKVLATPLEGHIRSDQWFYC" * 5


@pytest.mark.parametrize(
    ("sequence", "status"),
    [
        ("", Status.TOO_SHORT),
        ("ACGT" * 14 + "ACG", Status.TOO_SHORT),
        ("ACGU" * 15, None),
        ("acgt" * 15, None),
        ("N" * 10, Status.TOO_SHORT),
        ("N" * 500, Status.AMBIGUOUS),
        ("ACGTN" * 100, Status.AMBIGUOUS),
        ("RYKMSWBDHV" * 10, Status.AMBIGUOUS),
        ("N" * 500 + "ACGT" * 15 + "N" * 500, None),
        (PROTEIN, Status.NOT_DNA),
        (PROTEIN[:20], Status.NOT_DNA),
        ("ACGT" * 22 + "AC" + "E" * 11, Status.NOT_DNA),
        ("ACGT" * 22 + "AC" + "E" * 10, None),
        ("é" * 100, Status.NOT_DNA),
    ],
)
def test_a_record_is_held_back_for_the_first_reason(sequence, status):
    assert screen_record(Record("r", "r", sequence)) == status


@pytest.mark.parametrize("sequence", ["", "ACG", "N" * 30, "ACNGT" * 30])
def test_without_a_minimum_only_other_letters_hold_back(sequence):
    assert screen_record(Record("r", "r", sequence), min_nt=0) is None


@given(st.text("ACGTUacgtuNRY", max_size=200))
def test_the_longest_run_is_the_longest_part_between_others(sequence):
    parts = "".join("x" if base in "NRY" else "a" for base in sequence).split("x")
    longest = max(map(len, parts))
    record = Record("r", "r", sequence)
    assert screen_record(record, longest) is None
    assert screen_record(record, longest + 1) is not None
