"""Log lines of worker processes, carried to the parent and written there.

A spawned process has no log handlers. Its lines travel as plain values beside its results, so
that they land in the run's own log, in the run's own form.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogLine:
    """One finished log line: logger name, level number, text."""

    name: str
    level: int
    text: str

    def replay(self) -> None:
        """Write the line to this process's log."""
        logging.getLogger(self.name).log(self.level, "%s", self.text)


class _Relay(logging.Handler):
    def __init__(self, send: Callable[[LogLine], object]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send(LogLine(record.name, record.levelno, record.getMessage()))


def relay_logs(send: Callable[[LogLine], object], level: int) -> logging.Handler:
    """Send every `virnucpro` line from `level` on to `send`, and nowhere else."""
    handler = _Relay(send)
    logger = logging.getLogger("virnucpro")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    return handler


@contextmanager
def captured_logs() -> Iterator[list[LogLine]]:
    """Collect the `virnucpro` lines of a block; for use in a worker process."""
    lines: list[LogLine] = []
    logger = logging.getLogger("virnucpro")
    level, propagate = logger.level, logger.propagate
    handler = relay_logs(lines.append, logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
