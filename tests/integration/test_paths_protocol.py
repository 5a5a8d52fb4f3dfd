"""Every way through the pipeline gives the same calls.

Tolerance: padded and packed batches add the same float32 numbers in another order; through two
layers, the classifier and the logistic that moves a probability by less than 1e-5.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.main import cli
from virnucpro.pipeline import orf_stages, parallel_translate

TOLERANCE = 1e-5
EXAMPLE = Path(__file__).parents[2] / "examples" / "demo.fa"

PATHS = {
    "threads-4": ["--threads", "4"],
    "persistent-models": ["--persistent-models"],
    "v1-fallback": ["--parallel", "--v1-fallback"],
    "parallel-1-rank": ["--parallel", "--ranks", "1"],
    "parallel-2-ranks": ["--parallel", "--ranks", "2"],
    "parallel-3-ranks": ["--parallel", "--ranks", "3"],
    "dnabert-v2": ["--parallel", "--dnabert-v2"],
}
PACKED = {name for name, options in PATHS.items() if "--parallel" in options} - {"v1-fallback"}


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    """Run predict on the example with tiny published-format weights; returns its directory."""
    root = tmp_path_factory.mktemp("paths")
    home = make_tiny_home(root / "home")
    settings = root / "settings.yaml"
    settings.write_text("prediction: {sequences_per_file: 20}\nprogress: {enabled: false}\n")

    def run(name, *options):
        out = root / name
        arguments = ["-c", str(settings), "predict", str(EXAMPLE), "-m", "500", "-o", str(out)]
        environment = {"VIRNUCPRO_MODEL_DIR": str(home)}
        result = CliRunner().invoke(cli, [*arguments, *options, "--no-report"], env=environment)
        assert result.exit_code == 0, result.output
        return out

    return run


@pytest.fixture(scope="module")
def plain(predict):
    return predict("one-process", "--threads", "1")


def read(path):
    return [line.split("\t") for line in path.read_text().splitlines()]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two chunks, none of them for this process: others translate any input."""

    def refuse(*_):
        raise AssertionError("the process of the run has translated a block itself")

    monkeypatch.setattr(orf_stages, "BLOCK_CHUNKS", 2)
    monkeypatch.setattr(parallel_translate, "BLOCKS_BEFORE_POOL", 0)
    monkeypatch.setattr(parallel_translate, "find_orfs", refuse)  # in this process only


@pytest.mark.parametrize("name", PATHS)
def test_path_gives_the_calls_of_one_process(predict, plain, name, request):
    if name == "threads-4":
        request.getfixturevalue("small_blocks")
    out = predict(name, *PATHS[name])
    for table in ("calls.tsv", "chunks.tsv", "demo_merged/prediction_results.txt"):
        expected, got = read(plain / table), read(out / table)
        assert len(got) == len(expected) > 20
        for one, other in zip(expected, got, strict=True):
            assert_same_row(one, other)
    consensus = "demo_merged/prediction_results_highestscore.csv"
    assert (out / consensus).read_bytes() == (plain / consensus).read_bytes()
    assert engines_of(out) == {
        "dna": "packed" if name == "dnabert-v2" else "padded",
        "protein": "packed" if name in PACKED else "padded",
    }


def engines_of(out):
    """Which engine embedded each slot, as run.json says."""
    engines = json.loads((out / "run.json").read_text())["engines"]
    return {slot: facts.split()[0] for slot, facts in engines.items()}


def assert_same_row(one, other):
    """Texts are equal, and numbers within the tolerance."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        if left != right:
            assert float(left) == pytest.approx(float(right), abs=TOLERANCE)
