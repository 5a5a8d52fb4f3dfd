"""Long work tells how far it is, in ORFs, with a rate and an ETA, whichever engine works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from virnucpro.cli.main import cli
from virnucpro.core import progress

EXAMPLE = Path(__file__).parents[2] / "examples" / "demo.fa"
LINE = re.compile(r"(Embedding \w+): (\d+)/(\d+) ORFs, [\d.]+/s, ETA [\d:]+")

WAYS = {
    "here": [],
    "workers": ["--persistent-models"],
    "packed": ["--parallel", "--dnabert-v2", "--ranks", "2"],
}


@pytest.mark.parametrize("way", WAYS)
def test_embedding_tells_of_orfs_while_one_file_is_at_work(way, tiny_home, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    words = ["predict", str(EXAMPLE), "-m", "500", "-o", str(tmp_path / "out"), "--no-report"]
    budgets = ["--dnabert-batch-size", "512", "--esm-batch-size", "512"]
    policy = ["--orf-policy", "longest", "-t", "1"]
    result = CliRunner().invoke(
        cli, [*words, *policy, *budgets, *WAYS[way]], env={"VIRNUCPRO_MODEL_DIR": str(tiny_home)}
    )
    assert result.exit_code == 0, result.output
    told = {"Embedding DNA": [], "Embedding proteins": []}
    for title, done, total in LINE.findall(result.output):
        told[title].append((int(done), int(total)))
    for lines in told.values():
        assert len({total for _, total in lines}) == 1
        assert [done for done, _ in lines] == sorted(done for done, _ in lines)
        assert lines[-1][0] == lines[-1][1]
        if way != "workers":  # they tell once a second, and may be done before
            assert len(lines) > 2
