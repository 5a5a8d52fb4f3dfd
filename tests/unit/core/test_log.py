import logging

import pytest

from virnucpro.core.log import setup_logging


class Gone:
    """A stream whose reader went away."""

    def __init__(self):
        self.tries = 0

    def write(self, text):
        self.tries += 1
        raise BrokenPipeError

    def flush(self):
        pass


@pytest.fixture
def logger():
    yield logging.getLogger("virnucpro")
    setup_logging()


def test_a_reader_that_went_away_is_not_told_more(logger, monkeypatch, capsys, tmp_path):
    gone = Gone()
    monkeypatch.setattr("sys.stdout", gone)
    setup_logging(log_file=tmp_path / "log")
    logger.info("one")
    logger.warning("two")
    assert gone.tries == 1
    assert capsys.readouterr().err == ""
    assert [line.split(" - ")[-1] for line in (tmp_path / "log").read_text().splitlines()] == [
        "one", "two",
    ]  # fmt: skip


def test_a_message_that_cannot_be_formatted_is_still_shown(logger, capsys):
    setup_logging()
    logger.info("%d", "no number")
    assert "no number" in capsys.readouterr().err
