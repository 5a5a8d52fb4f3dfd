"""Long work tells how far it is, in ORFs, with a rate, whichever way it goes."""

import re

import pytest
from runs_here import facts, predict_here, run, write_dna

from virnucpro.core import progress
from virnucpro.pipeline.workers import Workers, WorkerSettings

LINE = re.compile(r"(\w+(?: \w+)?): (\d+)(?:/(\d+))? ORFs, [\d.]+/s, ETA [\d:]+")
EMBEDDING = {"Embedding DNA", "Embedding proteins"}
WAYS = {
    "one stream": ({}, {"Scoring"}),
    "workers": ({}, {"Scoring"}),
    "staged": ({"staged": True}, EMBEDDING),
    "persistent": ({"how": {"persistent_models": True}}, EMBEDDING),
    "packed": ({"dnabert_v2": True, "ranks": 1, "how": {"use_v2_architecture": True}}, EMBEDDING),
}


@pytest.mark.parametrize("way", WAYS)
def test_work_tells_of_orfs_while_one_unit_is_at_work(
    way, tiny_home, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level("INFO", "virnucpro")
    options, titles = WAYS[way]
    if way == "workers":
        workers = Workers([WorkerSettings(threads=1, heartbeat_s=0.0)])
        options = {"how": {"executor": workers}}
    fasta = write_dna(tmp_path / "in.fa", [400, 300, 900])
    try:
        assert predict_here(
            tiny_home, fasta, tmp_path / "out", output={"progress": True}, dna_tokens=600,
            protein_tokens=200, sequences_per_file=1_000, **options,
        ) == 0  # fmt: skip
    finally:
        if way == "workers":
            workers.close()
    orfs = facts(tmp_path / "out")["stages"]["scoring"]["embedded"]
    told = {title: [] for title in titles}
    for line in filter(None, map(LINE.match, caplog.messages)):
        title, done, total = line.groups()
        if title in told:
            told[title].append(int(done))
            assert total == (None if title == "Scoring" else str(orfs))
    for counts in told.values():
        assert counts == sorted(counts) and counts[-1] == orfs
        if way not in ("packed", "persistent"):  # they tell twice a second, or are done before
            assert len(set(counts)) > 2


def test_a_run_says_five_lines_and_more_only_if_asked(tmp_path):
    fasta, words = write_dna(tmp_path / "in.fa", [400, 300]), ["-o", tmp_path / "out"]
    begins = ["Input: ", "Model: mini", "Scored ", "2 records: ", "Done in "]
    for more in ([], ["-v", "--force"]):
        said = run("predict", fasta, *words, *more, code=0).output.splitlines()
        said = [line.split(" - ")[-1] for line in said]
        if more:
            assert said[0].startswith("Architecture: one stream")
            said = [line for line in said if line.startswith(tuple(begins))]
        assert len(said) == 5 and all(map(str.startswith, said, begins)), said
