import json
import re

import pytest
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.info import citation, completion, estimate
from virnucpro.cli.main import cli


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tmp_path / "home"))
    return make_tiny_home(tmp_path / "home")


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text(">a\n" + "ACG" * 300 + "\n>b\n" + "GCA" * 100 + "\n>c\nAC\n")
    return path


def test_citation_names_the_paper_and_is_valid_bibtex():
    text = CliRunner().invoke(citation).output
    assert "10.1093/bib/bbaf224" in text and "ESM-2" in text and "DNABERT-S" in text
    entries = CliRunner().invoke(citation, ["--bibtex"]).output.strip().split("\n\n")
    assert len(entries) == 4
    for entry in entries:
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ = \{.+\},\n)+\}", entry)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    result = CliRunner().invoke(completion, [shell])
    assert result.exit_code == 0 and f"{shell}_complete" in result.output


def test_counting_needs_no_pilot(home, fasta):
    options = ["-m", "500", "--count-only", "--json", str(fasta)]
    (row,) = json.loads(CliRunner().invoke(estimate, options, obj={}).output)
    assert (row["records"], row["scored"], row["chunks"]) == (3, 2, 3)
    assert row["orfs"] > 0 and row["protein_tokens"] > row["orfs"] and row["runs"] == []


@pytest.mark.slow
def test_time_and_memory_of_a_real_pilot(home, fasta):
    result = CliRunner().invoke(estimate, ["-m", "500", "-d", "cpu", str(fasta)], obj={})
    assert result.exit_code == 0
    assert re.search(r"on cpu: about [\d.]+ \w+.*, memory \d\.\d GiB", result.output)


def test_standard_input_is_refused(home):
    result = CliRunner().invoke(cli, ["estimate", "-m", "500", "-"])
    assert result.exit_code == 2 and "give files" in result.output
