"""The conformance list, one case a row, named by the id of the row.

Rows about behaviour look at real runs on tiny models, or name the test that shows it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conformance_rows import ROWS
from conformance_runs import Runs

LIST = Path(__file__).resolve().parents[2] / "shared" / "docs" / "conformance.md"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(row, logs):
    ROWS[row](logs)


@pytest.mark.skipif(not LIST.is_file(), reason="the list is not beside this checkout")
def test_every_row_of_the_list_is_checked():
    listed = set(re.findall(r"^\| (00\d-\d+) \|", LIST.read_text(), re.MULTILINE))
    assert listed == set(ROWS)
