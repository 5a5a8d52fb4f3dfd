"""Result files: what was measured, by which command, on which code and machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def keep(found: Mapping[str, Any], output: Path | None, commit: str | None = None) -> None:
    """Print what was found as JSON, and write it where that is asked for.

    Command, commit, date and machine stand before it, unless `found` has its own; `commit` is for
    copies of the code that git does not know.
    """
    result = {"command": " ".join(["python", *sys.argv]), **measured_on(commit), **found}
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")


def measured_on(commit: str | None = None) -> dict[str, Any]:
    """Commit of the code, today's date, and the machine; the CPU as the kernel names it."""
    git = ["git", "rev-parse", "HEAD"]
    known = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "commit": commit or known.strip(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "processor": names[0] if names else platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "load": round(os.getloadavg()[0], 1),
        },
    }
