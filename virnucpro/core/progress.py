"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from virnucpro.core.gpu_meter import GpuMeter

logger = logging.getLogger("virnucpro.progress")

SECONDS_BETWEEN_LINES = 30.0


class Bar(Protocol):
    """What a stage tells while it works."""

    def update(self, n: int = 1, **postfix: object) -> None:
        """Count `n` more items; `postfix` is shown behind the bar."""


class ProgressReporter:
    """Makes progress bars.

    Args:
        enabled: False shows nothing at all.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @contextmanager
    def create_file_bar(
        self, total: int | None, desc: str = "Processing files", unit: str = "files"
    ) -> Iterator[Bar]:
        """Show the progress of `total` items (None: not known) under the title `desc`."""
        if not self.enabled:
            yield _SilentBar()
        elif sys.stderr.isatty():
            with _rich_bar(total, desc, unit) as bar:
                yield bar
        else:
            yield _LineBar(total, desc, unit)


class _SilentBar:
    def update(self, n: int = 1, **postfix: object) -> None:
        """Show nothing."""


class _LineBar:
    """One log line every half minute, so that job logs stay readable."""

    def __init__(self, total: int | None, desc: str, unit: str) -> None:
        self.total, self.desc, self.unit = total, desc, unit
        self.done = 0
        self.start = self.last = time.monotonic()
        self.gpu = GpuMeter()

    def update(self, n: int = 1, **postfix: object) -> None:
        """Count, and log when half a minute has passed since the last line."""
        self.done = _bounded(self.done + n, self.total)
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        rate = self.done / (now - self.start)
        more = "".join(f", {text}" for text in _details(postfix, self.gpu))
        if self.total is None:
            logger.info("%s: %d %s, %.1f/s%s", self.desc, self.done, self.unit, rate, more)
            return
        left = (self.total - self.done) / rate if rate else 0.0
        logger.info(
            "%s: %d/%d %s, %.1f/s, ETA %s%s",
            self.desc, self.done, self.total, self.unit, rate, format_seconds(left), more,
        )  # fmt: skip


@contextmanager
def _rich_bar(total: int | None, desc: str, unit: str) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[more]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(desc, total=total, more="", rate="")
        gpu = GpuMeter()

        class RichBar:
            def update(self, n: int = 1, **postfix: object) -> None:
                more = ", ".join(_details(postfix, gpu))
                done = _bounded(int(progress.tasks[0].completed) + n, total)
                progress.update(task, completed=done, more=more)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield RichBar()


def _bounded(done: int, total: int | None) -> int:
    """What was lost and done again must not count twice at the end."""
    return done if total is None else min(done, total)


def _details(postfix: dict[str, object], gpu: GpuMeter) -> list[str]:
    texts = [f"{name} {value}" for name, value in postfix.items()]
    return [*texts, gpu.text()] if gpu.text() else texts


def format_seconds(seconds: float) -> str:
    """Seconds as `1:02:03` or `2:03`.

    >>> format_seconds(3723)
    '1:02:03'
    >>> format_seconds(123)
    '2:03'
    """
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
