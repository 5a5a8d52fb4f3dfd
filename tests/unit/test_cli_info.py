import json
import re

import pytest
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.info import citation, completion, estimate


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tmp_path / "home"))
    return make_tiny_home(tmp_path / "home")


def test_citation_names_the_paper_and_is_valid_bibtex():
    text = CliRunner().invoke(citation).output
    assert "10.1093/bib/bbaf224" in text and "ESM-2" in text and "DNABERT-S" in text
    assert "Science 379(6637):1123-1130. doi:10.1126/science.ade2574\n" in text
    entries = CliRunner().invoke(citation, ["--bibtex"]).output.strip().split("\n\n")
    assert len(entries) == 4
    for entry in entries:
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ = \{.+\},\n)+\}", entry)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    result = CliRunner().invoke(completion, [shell])
    assert result.exit_code == 0 and f"{shell}_complete" in result.output


@pytest.mark.slow
def test_counts_time_and_memory_of_an_input(home, tmp_path):
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\n" + "ACG" * 300 + "\n>b\n" + "GCA" * 100 + "\n>c\nAC\n")
    options = ["-m", "500", "--count-only", "--json", str(fasta)]
    (row,) = json.loads(CliRunner().invoke(estimate, options, obj={}).output)
    assert (row["records"], row["scored"], row["chunks"]) == (3, 2, 3)
    assert row["orfs"] > 0 and row["protein_tokens"] > row["orfs"] and row["runs"] == []
    result = CliRunner().invoke(estimate, ["-m", "500", "-d", "cpu", str(fasta)], obj={})
    assert result.exit_code == 0
    assert re.search(r"on cpu: about [\d.]+ \w+.*, memory \d\.\d GiB", result.output)
