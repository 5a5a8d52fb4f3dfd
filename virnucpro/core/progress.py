"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from importlib import import_module

logger = logging.getLogger("virnucpro.progress")

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_LOOKS = 2.0


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
            logger.info("%s: %s %s, %s", desc, count, unit, _joined(*words, *details))

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
