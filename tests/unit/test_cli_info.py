import json
import re

import pytest
from runs_here import run


def test_citation_names_the_paper_and_is_valid_bibtex():
    text = run("citation").output
    assert "10.1093/bib/bbaf224" in text and "ESM-2" in text and "DNABERT-S" in text
    assert "Science 379(6637):1123-1130. doi:10.1126/science.ade2574\n" in text
    entries = run("citation", "--bibtex").output.strip().split("\n\n")
    assert len(entries) == 4
    for entry in entries:
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ = \{.+\},\n)+\}", entry)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell):
    assert f"{shell}_complete" in run("completion", shell, code=0).output


@pytest.mark.slow
def test_counts_time_and_memory_of_an_input(tiny_home, tmp_path, monkeypatch):
    monkeypatch.setenv("VIRNUCPRO_MODEL_DIR", str(tiny_home))
    fasta = tmp_path / "in.fa"
    fasta.write_text(">a\n" + "ACG" * 300 + "\n>b\n" + "GCA" * 100 + "\n>c\nAC\n")
    (row,) = json.loads(run("estimate", "-m", "500", "--count-only", "--json", fasta).output)
    assert (row["records"], row["scored"], row["chunks"]) == (3, 2, 3)
    assert row["orfs"] > 0 and row["protein_tokens"] > row["orfs"] and row["runs"] == []
    result = run("estimate", "-m", "500", "-d", "cpu", fasta, code=0)
    assert re.search(r"on cpu: about [\d.]+ \w+.*, memory \d\.\d GiB", result.output)
