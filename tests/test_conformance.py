"""Every row of `conformance.md`, every bug and every promise of the docs has what checks it."""

import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from runs_here import run
from staged_files import tiny_dna_encoder
from tokenizers import Tokenizer

from virnucpro.encoders.tokenizers import BpeTokenizer
from virnucpro.models.specs import DNABERT_S

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT.parent / "shared" / "docs" / "conformance.md"
CELLS = re.findall(
    r"^\| ([\w /.-]+?) \| (.*) \|$", (ROOT / "tests/conformance.md").read_text(), re.M
)
FILES = {name: rest for name, rest in CELLS if " | " not in rest and name != "name"}
ROWS = {
    row: rest.split(" | ")[1].strip()
    for ids, rest in CELLS if ids[:2] == "00" for row in ids.split()
}  # fmt: skip


@functools.cache
def text_of(name):
    return (ROOT / FILES.get(name, name)).read_text(encoding="utf-8")


def guide():
    return text_of("guide")


@functools.cache
def names_in(name):
    found = set()
    for node in ast.parse(text_of(name)).body:
        found |= {getattr(node, "name", None)}
        for part in node.body if isinstance(node, ast.ClassDef) else []:
            method = getattr(part, "name", None)
            found |= {method, f"{node.name}.{method}"}
    return found


def check(row, tmp_path):
    for one in ROWS[row].split("; "):
        kind, _, rest = one.partition(" ")
        first, _, more = rest.partition(" ")
        if kind == "test":
            assert set(more.split()) <= names_in(first), one
        elif kind in ("grep", "no"):
            pattern = more.removeprefix('"').removesuffix('"') if more[1:2] == " " else more
            assert bool(re.search(pattern, text_of(first))) == (kind == "grep"), one
        elif kind == "help":
            shown = " ".join(run(first, "--help").output.split())
            assert re.search(more, shown), one
        elif kind == "file":
            assert (ROOT / FILES[first]).is_file(), one
        elif kind == "has":
            assert set(more.split()) <= set(dir(importlib.import_module(first))), one
        elif kind == "takes":
            module, name = first.split(":")
            takes = inspect.signature(getattr(importlib.import_module(module), name)).parameters
            wanted = dict((word.partition("=")[::2]) for word in more.split())
            assert [key for key in takes if key in wanted] == list(wanted), one
            assert all(str(takes[key].default) == text for key, text in wanted.items() if text), one
        else:
            assert kind == "show", one
            SHOWN[first](tmp_path)


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(row, tmp_path):
    check(row, tmp_path)


@pytest.mark.skipif(not LIST.is_file(), reason="the list is not beside this checkout")
def test_every_row_of_the_list_is_checked():
    assert set(re.findall(r"^\| (00\d-\d+) \|", LIST.read_text(), re.M)) == set(ROWS)


def no_torch_at_start(tmp_path):
    """Nor in a worker that merges."""
    modules = "virnucpro.pipeline.parallel_merge, virnucpro.pipeline.features"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def said(tmp_path, *options):
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    with patch("virnucpro.pipeline.prediction.run_prediction", return_value=0):
        return run("predict", tmp_path / "in.fa", "-o", tmp_path / "out", *options).output


def logged_as_said(tmp_path):
    """The blocks of log lines on the page are lines of real runs."""
    printed = said(tmp_path, "--parallel") + said(tmp_path, "--parallel", "--v1-fallback")
    found = re.findall(r"```text\n(Architecture:.*?)```", guide(), re.DOTALL)
    assert len(found) == 2
    for line in "".join(found).splitlines():
        assert f" {line}\n" in printed, line


NOTES = {
    "Note: v1.0 comparison requires 'v1.0' git tag in repository",
    "Tests will skip gracefully if v1.0 tag is unavailable",
}


def notes(tmp_path):
    """The suites that compare versions print a text before they start; no other suite does."""
    for suite, expected in (("v1-comparison", NOTES), ("all", NOTES), ("memory", set())):
        with patch("virnucpro.cli.benchmark.subprocess.run"):
            printed = run("benchmark", "--suite", suite, "-o", tmp_path).output.splitlines()
        assert NOTES & set(printed) == expected


def true_tokens(tmp_path):
    """Byte pairs from a vocabulary of 4,096 and not k-mers; nothing is cut off."""
    assert DNABERT_S.vocab == 4_096 and "vocabulary of 4,096, not k-mers" in guide()
    tiny_dna_encoder(tmp_path)
    cutting = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    cutting.enable_truncation(512)
    cutting.save(str(tmp_path / "tokenizer.json"))
    assert len(BpeTokenizer(tmp_path / "tokenizer.json").encode_batch(["A" * 4_000])[0]) == 4_002


SHOWN = {shown.__name__: shown for shown in (no_torch_at_start, logged_as_said, notes, true_tokens)}


BUGS, PROMISES = ((ROOT / "docs" / name).read_text() for name in ("bugs.md", "RELIABILITY.md"))


def named_in(text):
    """Files, and the names of tests in them; of a method its class first."""
    return re.findall(r"`(tests/[\w/]+\.py)::([\w:]+)`", text)


def test_every_bug_has_a_test():
    rows = re.findall(r"^\| (\d+) (\|.*)", BUGS, re.MULTILINE)
    assert [int(number) for number, row in rows if named_in(row)] == list(range(1, 28))


@pytest.mark.parametrize("page", [BUGS, PROMISES], ids=["bugs", "promises"])
def test_every_test_on_a_page_exists(page):
    assert len(named_in(page)) > 40
    for file, names in named_in(page):
        assert names.replace("::", ".") in names_in(file), names


def test_every_test_of_reliability_is_on_its_page():
    for path in (ROOT / "tests" / "reliability").glob("test_*.py"):
        found = re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
        assert set(found) <= {name for _, name in named_in(PROMISES)}, path.name


def test_modules_stay_small():
    modules = (ROOT / "virnucpro").rglob("*.py")
    assert not [path for path in modules if path.read_text(encoding="utf-8").count("\n") > 500]
