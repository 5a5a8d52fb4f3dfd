"""Logging of one run: readable lines or JSON on standard output, everything in a file."""

import json
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from virnucpro.core.errors import OutputError

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        time = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        said = {"time": time, "level": record.levelname, "logger": record.name}
        return json.dumps({**said, "message": record.getMessage()})


class _Lines(logging.StreamHandler):  # type: ignore[type-arg] # no [] before Python 3.11
    """Lines for whoever reads them: a reader that goes away, or a full disk, ends no run."""

    def __init__(self, stream: TextIO, level: int, path: Path | None = None) -> None:
        super().__init__(stream)
        self.setLevel(level)
        self.path = path

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self.setLevel(logging.CRITICAL + 1)
        if self.path:
            logging.getLogger("virnucpro").warning("%s ends here: %s", self.path, error.strerror)

    def close(self) -> None:
        if self.path:
            with suppress(OSError):  # what it did not take is lost, as was said
                self.stream.close()
        super().close()


def setup_logging(
    verbose: bool = False, quiet: bool = False, log_file: Path | None = None, style: str = "text",
    to_stderr: bool = False,
) -> logging.Logger:  # fmt: skip
    """Configure the `virnucpro` logger anew; if `quiet`, errors on standard error only."""
    logger = logging.getLogger("virnucpro")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    level = logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO
    handlers = [_Lines(sys.stderr if quiet or to_stderr else sys.stdout, level)]
    if log_file is not None:
        try:
            file = log_file.open("a", encoding="utf-8")
        except OSError as error:
            problem = f"{log_file}: cannot be written ({error.strerror}); choose another --log-file"
            raise OutputError(problem) from error
        handlers.append(_Lines(file, logging.DEBUG, log_file))
    formatter = _JsonFormatter() if style == "json" else logging.Formatter(FORMAT, DATE_FORMAT)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


def relay_logs(send: Callable[[logging.LogRecord], object], level: int) -> logging.Handler:
    """Give lines from `level` on to `send` alone: they travel, and `replay` writes them."""
    from logging.handlers import QueueHandler  # imports sockets

    handler = QueueHandler(SimpleNamespace(put_nowait=send))
    logger = logging.getLogger("virnucpro")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler


def replay(record: logging.LogRecord) -> None:
    """Write a line of another process to this one's log."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
