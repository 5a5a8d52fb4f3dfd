"""Long work tells how far it is, in ORFs, with a rate, whichever way it goes."""

import io
import logging
import os
import pty
import re
import sys
from contextlib import suppress
from types import SimpleNamespace
from unittest import mock

import pytest
from runs_here import facts, predict_here, run, write_dna

from virnucpro.core import log
from virnucpro.core.log import ProgressReporter, setup_logging
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
    monkeypatch.setattr(log, "SECONDS_BETWEEN_LINES", 0.0)
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


def test_without_a_terminal_there_is_a_plain_line_every_half_minute(caplog, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(log, "time", clock)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    caplog.set_level(logging.INFO, "virnucpro")
    with ProgressReporter().create_file_bar(100, "Embedding", "ORFs") as bar:
        for _ in range(7):
            clock.now += 10
            bar.update(10, loss=1)
        clock.now += 20
        bar.update(50)  # what was lost and done again counts once
    with ProgressReporter().create_file_bar(None, "Scoring", "ORFs") as bar:
        clock.now += 30
        bar.update(60, 180)
    assert caplog.messages == [
        "Embedding: 30/100 ORFs, 1.0/s, ETA 0:01:10, loss 1",
        "Embedding: 60/100 ORFs, 1.0/s, ETA 0:00:40, loss 1",
        "Embedding: 100/100 ORFs, 1.1/s, ETA 0:00:00",
        "Scoring: 60 ORFs, 2.0/s, ETA 0:01:00",
    ]


def test_on_a_terminal_there_is_a_bar_with_the_busiest_gpu(monkeypatch):
    driver = mock.Mock(NVMLError=RuntimeError)
    driver.nvmlDeviceGetCount.return_value = 2
    memory = [mock.Mock(used=used << 30, total=80 << 30) for used in (10, 30)]
    driver.nvmlDeviceGetHandleByIndex.side_effect = memory.__getitem__
    driver.nvmlDeviceGetMemoryInfo.side_effect = lambda handle: handle
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    outer, inner = pty.openpty()
    with os.fdopen(inner, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with ProgressReporter().create_file_bar(4, "Embedding", "ORFs") as bar:
            bar.update(2)
            bar.update(2)
    shown = ""
    with suppress(OSError):  # a terminal whose other end is closed says so once it is empty
        while part := os.read(outer, 65536):
            shown += part.decode()
    os.close(outer)
    assert "Embedding" in shown and "4/4" in shown and "GPU 30.0/80.0 GiB" in shown


def test_a_reader_that_went_away_is_not_told_more(monkeypatch, capsys, tmp_path):
    gone = mock.Mock()
    gone.write.side_effect = BrokenPipeError
    monkeypatch.setattr("sys.stdout", gone)
    setup_logging(log_file=tmp_path / "log")
    for word in ("one", "two"):
        logging.getLogger("virnucpro").info(word)
    assert gone.write.call_count == 1
    assert capsys.readouterr().err == ""
    assert [line.split(" - ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "one", "two",
    ]  # fmt: skip
