"""The code stays small enough to read: a module is one idea, and has a most."""

from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "virnucpro"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES_OF_A_MODULE = 500


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path):
    assert path.read_text(encoding="utf-8").count("\n") <= MOST_LINES_OF_A_MODULE
