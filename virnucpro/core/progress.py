"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from importlib import import_module

logger = logging.getLogger("virnucpro.progress")

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 2.0


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


class Bar:
    """What a stage tells while it works; this one shows nothing."""

    def __init__(self, total: int | None = None, desc: str = "", unit: str = "") -> None:
        self.total, self.desc, self.unit = total, desc, unit
        self.done, self._gpu = 0, lru_cache(maxsize=1)(gpu_memory)

    def update(self, n: int = 1, expected: int | None = None, **postfix: object) -> None:
        """Count `n` more items of about `expected`; `postfix` is shown behind the bar."""
        self.done += n
        if self.total is not None:  # what was lost and done again must not count twice
            self.done = min(self.done, self.total)
        self.show(self.total or expected, [f"{name} {value}" for name, value in postfix.items()])

    def show(self, expected: int | None, details: list[str]) -> None:
        """Tell of `done` items."""

    def words(self, *details: str) -> str:
        """The details that there are, and memory of the GPU, looked up every two seconds."""
        memory = self._gpu(int(time.monotonic() / SECONDS_BETWEEN_LOOKS))
        return ", ".join(filter(None, (*details, memory)))


class _LineBar(Bar):
    """One log line every half minute, so that job logs stay readable."""

    def __init__(self, total: int | None, desc: str, unit: str) -> None:
        super().__init__(total, desc, unit)
        self.start = self.last = time.monotonic()

    def show(self, expected: int | None, details: list[str]) -> None:
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        rate = self.done / (now - self.start)
        words = [f"{rate:.1f}/s"]
        if rate and expected is not None:
            words.append(f"ETA {timedelta(seconds=int(max(0, expected - self.done) / rate))}")
        count = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        logger.info("%s: %s %s, %s", self.desc, count, self.unit, self.words(*words, *details))


class ProgressReporter:
    """Makes progress bars; one that is not `enabled` shows nothing at all."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @contextmanager
    def create_file_bar(
        self, total: int | None, desc: str = "Processing files", unit: str = "files"
    ) -> Iterator[Bar]:
        """Show the progress of `total` items (None: not known) under the title `desc`."""
        if not self.enabled or not sys.stderr.isatty():
            yield _LineBar(total, desc, unit) if self.enabled else Bar()
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

            class RichBar(Bar):
                def show(self, expected: int | None, details: list[str]) -> None:
                    speed = f"{task.speed:,.0f}/s" if task.speed else ""
                    words = self.words(speed, *details)
                    progress.update(task.id, total=expected, completed=self.done, details=words)

            yield RichBar(total, desc, unit)
