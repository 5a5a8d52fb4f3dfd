import io
import logging
import os
import pty
import sys
from contextlib import suppress
from types import SimpleNamespace
from unittest import mock

import pytest

from virnucpro.core import progress
from virnucpro.core.log import setup_logging
from virnucpro.core.progress import ProgressReporter


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def nvml(monkeypatch):
    """A driver that tells of two GPUs."""
    driver, memory = mock.Mock(NVMLError=RuntimeError), (10 << 30, 30 << 30)
    driver.nvmlDeviceGetCount.return_value = 2
    driver.nvmlDeviceGetHandleByIndex.side_effect = lambda number: mock.Mock(
        used=memory[number], total=80 << 30
    )
    driver.nvmlDeviceGetMemoryInfo.side_effect = lambda handle: handle
    monkeypatch.setitem(sys.modules, "pynvml", driver)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_without_a_terminal_there_is_a_plain_line_every_half_minute(
    clock, caplog, no_gpu, monkeypatch
):
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


def test_on_a_terminal_there_is_a_bar(monkeypatch, nvml):
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


@pytest.fixture
def logger():
    yield logging.getLogger("virnucpro")
    setup_logging()


def test_a_reader_that_went_away_is_not_told_more(logger, monkeypatch, capsys, tmp_path):
    gone = mock.Mock()
    gone.write.side_effect = BrokenPipeError
    monkeypatch.setattr("sys.stdout", gone)
    setup_logging(log_file=tmp_path / "log")
    logger.info("one")
    logger.warning("two")
    assert gone.write.call_count == 1
    assert capsys.readouterr().err == ""
    assert [line.split(" - ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "one", "two",
    ]  # fmt: skip


def test_a_message_that_cannot_be_formatted_is_still_shown(logger, capsys):
    setup_logging()
    logger.info("%d", "no number")
    assert "no number" in capsys.readouterr().err
