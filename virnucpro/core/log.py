"""Logging of one run: readable lines or JSON on standard output, everything in a file."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path

from virnucpro.core.errors import OutputError

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Turn a record into a line of JSON."""
        return json.dumps(
            {
                "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
            }
        )


class _Lines(logging.Handler):
    """Lines for whoever reads them: a reader that goes away, or a full disk, ends no run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing more where nothing more is taken."""
        if isinstance(sys.exc_info()[1], OSError):
            self.setLevel(logging.CRITICAL + 1)
        else:
            super().handleError(record)


class _Console(_Lines, logging.StreamHandler):  # type: ignore[type-arg] # no [] before Python 3.11
    """Lines on a standard stream."""


class _File(_Lines, logging.FileHandler):
    """Lines in a file, which other handlers are told of when it takes no more."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say once that the file ends here."""
        error = sys.exc_info()[1]
        super().handleError(record)
        if isinstance(error, OSError):
            logging.getLogger("virnucpro").warning(
                "%s ends here: %s", self.baseFilename, error.strerror
            )

    def close(self) -> None:
        """Close the file; what it did not take is lost, as was said."""
        with suppress(OSError):
            super().close()


def setup_logging(
    verbose: bool = False, quiet: bool = False, log_file: Path | None = None, style: str = "text"
) -> logging.Logger:
    """Configure the `virnucpro` logger, replacing what an earlier call set up.

    Args:
        verbose: show DEBUG lines.
        quiet: show errors only, on standard error.
        log_file: also write every line there, DEBUG included.
        style: `text` or `json`.

    Raises:
        OutputError: `log_file` cannot be written.
    """
    logger = logging.getLogger("virnucpro")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    console = _Console(sys.stderr if quiet else sys.stdout)
    console.setLevel(logging.ERROR if quiet else logging.DEBUG if verbose else logging.INFO)
    handlers: list[logging.Handler] = [console]
    if log_file is not None:
        handlers.append(_file_handler(log_file))
    formatter = JsonFormatter() if style == "json" else logging.Formatter(FORMAT, DATE_FORMAT)
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


def _file_handler(path: Path) -> logging.Handler:
    try:
        return _File(path, encoding="utf-8")
    except OSError as error:
        problem = f"{path}: cannot be written ({error.strerror}); choose another --log-file"
        raise OutputError(problem) from error
