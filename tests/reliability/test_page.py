"""docs/RELIABILITY.md names a test for each promise, and every test that it names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_every_test_on_the_page_exists():
    assert len(NAMED) > 40
    for file, name in NAMED:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert f"def {name}(" in text, f"{file}::{name}"


def test_every_test_of_reliability_is_on_the_page():
    for file in (ROOT / "tests" / "reliability").glob("test_*.py"):
        if file.name == Path(__file__).name:
            continue
        found = re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
        named = {name for where, name in NAMED if where.endswith(f"/{file.name}")}
        assert set(found) <= named, file.name
