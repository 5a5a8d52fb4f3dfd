"""Rows are found by id, also where hashes are alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.pipeline import row_index
from virnucpro.pipeline.row_index import RowIndex

NAMES = st.lists(st.text(max_size=4).filter(lambda text: text.isprintable()), unique=True)


@given(NAMES, NAMES)
def test_each_id_has_its_row_and_others_have_none(ids, others):
    index = RowIndex(ids)
    wanted = ids[::-1] + others
    expected = [ids.index(name) if name in ids else -1 for name in wanted]
    assert index.rows(wanted).tolist() == expected


@pytest.mark.parametrize("kinds", [1, 3])
def test_ids_with_the_same_hash_are_told_apart(monkeypatch, kinds):
    monkeypatch.setattr(row_index, "hash", lambda value: len(value) % kinds, raising=False)
    ids = [b"a", b"bb", b"ccc", b"d", b"eeee", b"ffffff"]
    names = [name.decode() for name in ids]
    assert RowIndex(ids).rows(names[::-1]).tolist() == [5, 4, 3, 2, 1, 0]


def test_of_rows_with_one_id_the_first_is_found():
    assert RowIndex(np.array([b"a", b"b", b"a"])).rows(["a"]).tolist() == [0]
