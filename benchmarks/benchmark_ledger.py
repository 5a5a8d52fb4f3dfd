"""What resumability costs: seconds in the ledger and in syncing files, beside a whole run.

    python benchmarks/benchmark_ledger.py --reads 20000 --output benchmarks/results/ledger.json

The run is a prediction with the bundled model on one core, the fastest encoders there are and so
the worst case for the share. A second run that finds everything done is timed as a new process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_memory import write_reads
from result_file import keep

from virnucpro.core.checkpoint import Ledger


class Clock:
    """Adds up the seconds spent in functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def wrap(self, owner: Any, name: str, title: str) -> None:
        """Time every call of `owner.name` from here on."""
        inner: Callable[..., Any] = getattr(owner, name)
        self.seconds.setdefault(title, 0.0)
        self.calls.setdefault(title, 0)

        def timed(*given: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*given, **named)
            finally:
                self.seconds[title] += time.perf_counter() - started
                self.calls[title] += 1

        setattr(owner, name, timed)


def predict(fasta: Path, out: Path) -> float:
    """Run a prediction in this process; its wall time (s)."""
    import torch

    from virnucpro.pipeline.prediction import run_prediction
    from virnucpro.pipeline.settings import Compute, Output, PredictionSettings

    torch.set_num_threads(1)
    settings = PredictionSettings(
        compute=Compute(device="cpu", threads=1), output=Output(progress=False, report=False)
    )
    started = time.perf_counter()
    if run_prediction([fasta], out, settings) != 0:
        sys.exit("the run failed")
    return time.perf_counter() - started


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    clock = Clock()
    for name in ("commit", "read", "discard", "claim"):
        clock.wrap(Ledger, name, "ledger")
    clock.wrap(os, "fsync", "fsync, those of the ledger included")
    with tempfile.TemporaryDirectory() as folder:
        fasta, out = Path(folder) / "reads.fa", Path(folder) / "out"
        write_reads(fasta, arguments.reads)
        wall = predict(fasta, out)
        again = [sys.executable, "-m", "virnucpro", "-q", "predict", str(fasta), "-o", str(out)]
        started = time.perf_counter()
        subprocess.run([*again, "-d", "cpu", "--resume"], check=True)
        second = time.perf_counter() - started
    summary = {
        "about": "prediction with the bundled model, reads of 500 nt, CPU, one thread",
        "reads": arguments.reads,
        "wall_s": round(wall, 2),
        "seconds": {title: round(value, 3) for title, value in clock.seconds.items()},
        "calls": clock.calls,
        "ledger_share": round(clock.seconds["ledger"] / wall, 5),
        "limit": 0.01,
        "second_run_s": round(second, 2),
        "second_run_limit_s": 2.0,
    }
    keep(summary, arguments.output)


if __name__ == "__main__":
    main()
