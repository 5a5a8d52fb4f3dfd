"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module

logger = logging.getLogger("virnucpro.progress")

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 2.0


class GpuMeter:
    """GPU memory in use; asks the driver, as whoever shows progress need not hold a GPU itself."""

    def __init__(self) -> None:
        self._text, self._next = "", 0.0

    def text(self) -> str:
        """Memory of the busiest GPU, such as `GPU 12.3/79.6 GiB`; looked up every two seconds."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS
            try:
                nvml = import_module("pynvml")
                nvml.nvmlInit()
                handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
                busiest = max(map(nvml.nvmlDeviceGetMemoryInfo, handles), key=lambda one: one.used)
                self._text = f"GPU {busiest.used / 2**30:.1f}/{busiest.total / 2**30:.1f} GiB"
            except Exception:  # noqa: BLE001 - no library, no driver or no GPU: all the same here
                self._text, self._next = "", math.inf
        return self._text


class Bar:
    """What a stage tells while it works; this one shows nothing."""

    def update(self, n: int = 1, expected: int | None = None, **postfix: object) -> None:
        """Count `n` more items; `postfix` is shown behind the bar.

        `expected` is about how many there will be, where the total is not known.
        """


class ProgressReporter:
    """Makes progress bars; one that is not `enabled` shows nothing at all."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @contextmanager
    def create_file_bar(
        self, total: int | None, desc: str = "Processing files", unit: str = "files"
    ) -> Iterator[Bar]:
        """Show the progress of `total` items (None: not known) under the title `desc`."""
        if not self.enabled:
            yield Bar()
        elif sys.stderr.isatty():
            with _rich_bar(total, desc, unit) as bar:
                yield bar
        else:
            yield _LineBar(total, desc, unit)


class _LineBar(Bar):
    """One log line every half minute, so that job logs stay readable."""

    def __init__(self, total: int | None, desc: str, unit: str) -> None:
        self.total, self.desc, self.unit = total, desc, unit
        self.done = 0
        self.start = self.last = time.monotonic()
        self.gpu = GpuMeter()

    def update(self, n: int = 1, expected: int | None = None, **postfix: object) -> None:
        self.done = _bounded(self.done + n, self.total)
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        rate = self.done / (now - self.start)
        count, details = f"{self.done}", [f"{rate:.1f}/s"]
        if self.total is not None:
            count += f"/{self.total}"
        if rate and (total := self.total or expected) is not None:
            details.append(f"ETA {timedelta(seconds=int(max(0, total - self.done) / rate))}")
        details += _details(postfix, self.gpu)
        logger.info("%s: %s %s, %s", self.desc, count, self.unit, ", ".join(details))


@contextmanager
def _rich_bar(total: int | None, desc: str, unit: str) -> Iterator[Bar]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        "{task.description}", rich.BarColumn(), rich.MofNCompleteColumn(), unit,
        rich.TimeElapsedColumn(), rich.TimeRemainingColumn(), "{task.fields[details]}",
    )  # fmt: skip
    with rich.Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(desc, total=total, details="")
        [task], gpu = progress.tasks, GpuMeter()

        class RichBar(Bar):
            def update(self, n: int = 1, expected: int | None = None, **postfix: object) -> None:
                details = [f"{task.speed:,.0f}/s"] if task.speed else []
                text = ", ".join([*details, *_details(postfix, gpu)])
                done = _bounded(int(task.completed) + n, total)
                progress.update(task.id, total=total or expected, completed=done, details=text)

        yield RichBar()


def _bounded(done: int, total: int | None) -> int:
    """What was lost and done again must not count twice at the end."""
    return done if total is None else min(done, total)


def _details(postfix: dict[str, object], gpu: GpuMeter) -> list[str]:
    return [text for text in (*(f"{k} {v}" for k, v in postfix.items()), gpu.text()) if text]
