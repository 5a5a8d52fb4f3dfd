"""GPU memory in use, for the progress line; nothing where NVIDIA's library is not installed.

Asks the driver, not PyTorch: the process that shows progress need not hold a GPU itself.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

SECONDS_BETWEEN_LOOKS = 2.0


class GpuMeter:
    """Memory of the busiest GPU in words, looked up at most every two seconds."""

    def __init__(self) -> None:
        self._library = _driver()
        self._text, self._next = "", 0.0

    def text(self) -> str:
        """For instance `GPU 12.3/79.6 GiB`; empty where there is no GPU."""
        now = time.monotonic()
        if self._library is not None and now >= self._next:
            self._next = now + SECONDS_BETWEEN_LOOKS
            self._text = self._look(self._library)
        return self._text

    def _look(self, library: Any) -> str:
        try:
            handles = map(library.nvmlDeviceGetHandleByIndex, range(library.nvmlDeviceGetCount()))
            memories = [library.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        except library.NVMLError:
            self._library = None
            return ""
        busiest = max(memories, key=lambda memory: memory.used, default=None)
        if busiest is None:
            return ""
        return f"GPU {busiest.used / 2**30:.1f}/{busiest.total / 2**30:.1f} GiB"


def _driver() -> Any:
    """NVIDIA's management library, ready for questions, or None."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    return library
