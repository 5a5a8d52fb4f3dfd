"""docs/bugs.md names a test for each bug, docs/RELIABILITY.md for each promise, and all exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUGS, PROMISES = ((ROOT / "docs" / name).read_text() for name in ("bugs.md", "RELIABILITY.md"))


def named_in(text):
    """Files, and the names of tests in them; of a method its class first."""
    return re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text)


def is_defined(body, names):
    """Whether a class or function lies at the end of a path of names."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == names[0]:
            return len(names) == 1 or is_defined(node.body, names[1:])
    return False


def test_every_bug_has_a_test():
    rows = re.findall(r"^\| (\d+) (\|.*)", BUGS, re.MULTILINE)
    assert [int(number) for number, row in rows if named_in(row)] == list(range(1, 28))


@pytest.mark.parametrize("page", [BUGS, PROMISES], ids=["bugs", "promises"])
def test_every_test_on_a_page_exists(page):
    assert len(named_in(page)) > 40
    for file, names in named_in(page):
        assert is_defined(ast.parse((ROOT / file).read_text()).body, names.split("::")), names


def test_every_test_of_reliability_is_on_its_page():
    for path in (ROOT / "tests" / "reliability").glob("test_*.py"):
        found = re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
        assert set(found) <= {name for _, name in named_in(PROMISES)}, path.name


PACKAGE = Path(__file__).resolve().parents[2] / "virnucpro"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES_OF_A_MODULE = 500


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path):
    assert path.read_text(encoding="utf-8").count("\n") <= MOST_LINES_OF_A_MODULE
