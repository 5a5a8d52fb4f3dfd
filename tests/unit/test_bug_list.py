"""docs/bugs.md names a test for each bug, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / "docs" / "bugs.md").read_text(encoding="utf-8").splitlines()
BUGS = {int(line.split("|")[1]): line for line in LINES if re.match(r"\| \d+ \|", line)}


def definition(body, names):
    """Whether a class or function lies at the end of a path of names."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in body:
        if isinstance(node, kinds) and node.name == names[0]:
            return len(names) == 1 or definition(node.body, names[1:])
    return False


def test_all_bugs_are_listed():
    assert list(BUGS) == list(range(1, 28))


@pytest.mark.parametrize("number", BUGS)
def test_the_tests_of_a_bug_exist(number):
    named = re.findall(r"`(tests/[^`]+)`", BUGS[number])
    assert named
    for test in named:
        path, *names = test.split("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert definition(tree.body, names), test
