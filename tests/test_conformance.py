"""The conformance list: `conformance.md` says what each row asks for and what checks it."""

import ast
import functools
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from runs_here import run
from staged_files import tiny_dna_encoder
from tokenizers import Tokenizer

from virnucpro.core.errors import WorkersFailedError
from virnucpro.encoders.tokenizers import BpeTokenizer
from virnucpro.models.specs import DNABERT_S
from virnucpro.pipeline.multi_gpu_inference import features

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
    """Names of functions and classes, and `Class.function` of methods."""
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


def fallback_comes_after_parallel(tmp_path):
    text = text_of("predict")
    assert text.index('"--parallel"') < text.index('"--v1-fallback"') < text.index("v1_fallback: b")


def said(tmp_path, *options):
    """What predict logs before it would start to compute."""
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


ORDER = """
import logging, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is imported")
            raise ImportError("no torch in this test")

def made(*args, **kwargs):
    record = known(*args, **kwargs)
    print("logged", record.getMessage())
    return record

known = logging.getLogRecordFactory()
logging.setLogRecordFactory(made)
sys.meta_path.insert(0, Finder())
from virnucpro.cli.main import main
main()
"""


def logging_before_torch(tmp_path):
    """The lines come after the settings were read, and torch after the lines."""
    (tmp_path / "in.fa").write_text(">a\nACGT\n")
    words = [sys.executable, "-c", ORDER, "predict", "in.fa", "--parallel", "-o", "out"]

    def events(**variables):
        done = subprocess.run(
            words, env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        return [line for line in lines if "Architecture: " in line or line.startswith("torch")]

    first, *_, last = events()
    assert first == "logged Architecture: v2.0 hybrid"
    assert last == "torch is imported"
    assert events(VIRNUCPRO_DISABLE_PACKING="perhaps") == []


def features_line(tmp_path):
    on_cuda = features({"dtype": "float16", "backend": "varlen"})
    assert f"  Features: {on_cuda}, stride-based sharding" == (
        "  Features: FP16, FlashAttention varlen, stride-based sharding"
    )


def failure_text(tmp_path):
    error = WorkersFailedError([1, 3], 4, Path("out/esm_v2/logs"))
    assert isinstance(error, RuntimeError)
    assert str(error) == (
        "v2.0 ESM-2 inference failed on 2/4 workers: ranks [1, 3]. "
        "Check logs: out/esm_v2/logs/worker_*.log"
    )


NOTES = {
    "Note: v1.0 comparison requires 'v1.0' git tag in repository",
    "Tests will skip gracefully if v1.0 tag is unavailable",
}


def notes(tmp_path):
    """The suites that compare versions print a text before they start; no other suite does."""
    for suite, expected in (("v1-comparison", NOTES), ("all", NOTES), ("memory", set())):
        with patch("virnucpro.cli.benchmark._run", return_value=5):
            printed = run("benchmark", "--suite", suite, "-o", tmp_path).output.splitlines()
        assert NOTES & set(printed) == expected


def table_of_stages(tmp_path):
    section = guide().split("## Hybrid Architecture (v2.0)")[1].split("###")[0]
    head, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert columns == ["Stage", "v1.0", "v2.0 (current)", "Future (v2.1)"]
    stages = ["Chunking", "Translation", "Splitting", "DNABERT-S", "ESM-2", "Merging"]
    stages += ["Prediction", "Consensus"]
    assert all(word in row for word, row in zip(stages, rows, strict=True))


def enough_lines(tmp_path):
    assert len([line for line in guide().splitlines() if line.strip()]) >= 100


def true_tokens(tmp_path):
    """Byte pairs from a vocabulary of 4,096 and not k-mers; nothing is cut off."""
    assert DNABERT_S.vocab == 4_096 and "vocabulary of 4,096, not k-mers" in guide()
    tiny_dna_encoder(tmp_path)
    cutting = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    cutting.enable_truncation(512)
    cutting.save(str(tmp_path / "tokenizer.json"))
    assert len(BpeTokenizer(tmp_path / "tokenizer.json").encode("ACGT" * 1_000)) == 4_002


def result_file(name):
    return json.loads(text_of(f"benchmarks/results/{name}_h100.json"))


def true_figures(tmp_path):
    """Each figure of the table is that of the result file, rounded."""
    engine, dna = result_file("engine"), result_file("dnabert")["dnabert"]
    esm2 = engine["esm2"]
    packed = esm2["chunks 65536 compile on"]["tok_s"]
    original = engine["rivals"]["chunks transformers float32, original's batches"]
    fast, slow = (dna[f"{name} 65536 compile on"]["seq_s"] for name in ("packed", "padded"))
    for text in (
        f"{packed / original:.1f} x ({packed:,.0f} against {original:,.0f} tok/s)",
        f"{esm2['chunks over transformers']:.2f} x (168 tokens)",
        f"{esm2['reads over transformers']:.2f} x (about 51 tokens)",
        f"{fast / slow:.2f} x ({fast:,.0f} against {slow:,.0f} seq",
        f"two GPUs against one | {result_file('scaling')['scaling']['speed-up']:.2f} x |",
    ):
        assert text in guide(), text


def thresholds_reached(tmp_path):
    """4 to 5 times the throughput of 1.0, and 1.9 times on two GPUs: as measured, and as judged."""
    assert result_file("engine")["esm2"]["chunks over original"] >= 5
    assert result_file("scaling")["scaling"]["speed-up"] >= 1.9
    assert "took[1] / took[2], 1.9," in text_of("suites")


SHOWN = {
    shown.__name__: shown
    for shown in (
        no_torch_at_start, fallback_comes_after_parallel, logged_as_said, logging_before_torch,
        features_line, failure_text, notes, table_of_stages, enough_lines, true_tokens,
        true_figures, thresholds_reached,
    )
}  # fmt: skip
