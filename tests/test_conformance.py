"""The conformance list, one case a row, named by the id of the row.

Rows about behaviour name the test that shows it; log lines come from real runs on tiny models.
"""

from __future__ import annotations

import re
from pathlib import Path

import conformance_cli
import conformance_guide
import conformance_merge
import pytest
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.main import cli

ROWS = conformance_merge.ROWS | conformance_cli.ROWS | conformance_guide.ROWS
LIST = Path(__file__).resolve().parents[2] / "shared" / "docs" / "conformance.md"
RUNS = {
    "merge-threads": ["--merge-threads", "2"],
    "parallel": ["--parallel", "--ranks", "1"],
    "fallback": ["--parallel", "--v1-fallback", "-t", "1"],
    "persistent": ["--persistent-models", "-t", "1"],
}
CODING = "ATGGCCAAGGTTCTGTCACCAGAT" * 8


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """`logs(run)`: what a command of `RUNS` printed; each runs once."""
    root = tmp_path_factory.mktemp("conformance")
    home = make_tiny_home(root / "home")
    fasta = root / "in.fa"
    fasta.write_text("".join(f">c{i}\n{CODING[i:]}\n" for i in range(6)))
    known = {}

    def output(run):
        if run not in known:
            environment = {
                "VIRNUCPRO_MODEL_DIR": str(home),
                "VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE": "3",
            }
            words = ["predict", str(fasta), "-m", "500", "-o", str(root / run), *RUNS[run]]
            words += ["--no-progress", "--no-report"]
            done = CliRunner().invoke(cli, words, env=environment)
            assert done.exit_code == 0, done.output
            known[run] = done.output
        return known[run]

    return output


@pytest.mark.parametrize("row", sorted(ROWS))
def test_row(row, logs):
    ROWS[row](logs)


@pytest.mark.skipif(not LIST.is_file(), reason="the list is not beside this checkout")
def test_every_row_of_the_list_is_checked():
    listed = set(re.findall(r"^\| (00\d-\d+) \|", LIST.read_text(), re.MULTILINE))
    assert listed == set(ROWS)
