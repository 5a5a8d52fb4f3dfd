"""What a run tells: lines or JSON on standard output, everything in a file, bars on a terminal."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from virnucpro.core.errors import OutputError

FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"
DATE_FORMAT = "%Y-%m-%d %H:%M:%S"
SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 2.0


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        now = self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z")
        said = {"time": now, "level": record.levelname, "logger": record.name}
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


@lru_cache(maxsize=1)
def gpu_memory(moment: int) -> str:
    """Memory of the busiest GPU by its driver, such as `GPU 12.3/79.6 GiB`; empty without one."""
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
        handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
        busiest = max(map(nvml.nvmlDeviceGetMemoryInfo, handles), key=lambda one: one.used)
        return f"GPU {busiest.used / 2**30:.1f}/{busiest.total / 2**30:.1f} GiB"
    except Exception:  # noqa: BLE001 - no library, no driver or no GPU: all the same here
        return ""


def _joined(*details: str) -> str:
    memory = gpu_memory(int(time.monotonic() / SECONDS_BETWEEN_LOOKS))
    return ", ".join(filter(None, (*details, memory)))


class Bar:
    """Counts the items of a stage and lets `show` tell how many are done, of how many, and more."""

    def __init__(self, total: int | None, show: Callable[[int, int | None, list[str]], object]):
        self._done, self._total, self._show = 0, total, show

    def update(self, n: int = 1, expected: int | None = None, **postfix: object) -> None:
        """Count `n` more items of about `expected`; `postfix` is shown behind the bar."""
        self._done += n
        if self._total is not None:  # what was lost and done again must not count twice
            self._done = min(self._done, self._total)
        details = [f"{name} {value}" for name, value in postfix.items()]
        self._show(self._done, self._total or expected, details)


class ProgressReporter:
    """Makes progress bars; one that is not `enabled` shows nothing at all."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @contextmanager
    def create_file_bar(
        self, total: int | None, desc: str = "Processing files", unit: str = "files"
    ) -> Iterator[Bar]:
        """Show the progress of `total` items (None: not known) under the title `desc`."""
        start = last = time.monotonic()

        def log(done: int, expected: int | None, details: list[str]) -> None:
            nonlocal last
            if (now := time.monotonic()) - last < SECONDS_BETWEEN_LINES:
                return
            last, rate = now, done / (now - start)
            words = [f"{rate:.1f}/s"]
            if rate and expected is not None:
                words.append(f"ETA {timedelta(seconds=int(max(0, expected - done) / rate))}")
            count = f"{done}" if total is None else f"{done}/{total}"
            told = desc, count, unit, _joined(*words, *details)
            logging.getLogger("virnucpro.progress").info("%s: %s %s, %s", *told)

        if not self.enabled or not sys.stderr.isatty():
            yield Bar(total, log if self.enabled else lambda *told: None)
            return
        from rich import progress as rich
        from rich.console import Console

        columns = (
            "{task.description}", rich.BarColumn(), rich.MofNCompleteColumn(), unit,
            rich.TimeElapsedColumn(), rich.TimeRemainingColumn(), "{task.fields[details]}",
        )  # fmt: skip
        with rich.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            progress.add_task(desc, total=total, details="")
            [task] = progress.tasks

            def draw(done: int, expected: int | None, details: list[str]) -> None:
                speed = f"{task.speed:,.0f}/s" if task.speed else ""
                words = _joined(speed, *details)
                progress.update(task.id, total=expected, completed=done, details=words)

            yield Bar(total, draw)
