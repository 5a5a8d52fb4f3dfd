"""Distinct texts are numbered as a dictionary would, in a fraction of its memory."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from virnucpro.core.seen import SeenTable


@given(st.lists(st.text(max_size=3)))
def test_numbers_are_those_of_a_dictionary(texts):
    table, known = SeenTable(), {}
    for text in texts:
        expected = known.setdefault(text, len(known)), len(known)
        number, is_new = table.add(text)
        assert (number, is_new) == (expected[0], expected[0] + 1 == expected[1] and is_new)
    assert len(table) == len(known)


def test_every_text_keeps_its_number_while_the_table_grows():
    table = SeenTable()
    assert all(table.add(str(n)) == (n, True) for n in range(30_000))
    assert all(table.add(str(n)) == (n, False) for n in range(30_000))
    assert len(table) == 30_000


def test_an_entry_takes_few_bytes_even_while_the_table_grows():
    tracemalloc.start()
    table = SeenTable()
    for n in range(200_000):
        table.add(str(n))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * len(table) + (1 << 18)
