"""What resumability costs: commits beside bare renames, and the ledger's seconds of a whole run.

    python benchmarks/benchmark_ledger.py --reads 20000 --output benchmarks/results/ledger.json

The run is a prediction with the bundled model on one core, the fastest encoders there are and so
the worst case for the share. A second run that finds everything done is timed as a new process.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_memory import READ_NT, write_reads
from result_file import keep

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.files import fsync_folder
from virnucpro.scores.scorer import COLUMNS


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


def commits(folder: Path, count: int) -> dict[str, float]:
    """Commits a second of a unit's scores, beside write, fsync and rename of the same: medians."""
    payload = os.urandom(10_000 * COLUMNS * 4)
    ledger = Ledger(folder, folder / "ledger")
    bare = folder / "bare"
    bare.mkdir()

    def rename(number: int) -> None:
        with (bare / "tmp").open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        (bare / "tmp").replace(bare / str(number))

    def rename_and_sync(number: int) -> None:
        rename(-number)
        fsync_folder(bare)

    ways = {
        "ledger": lambda n: ledger.commit(f"scores {n}", "key", payload),
        "bare": rename,
        "bare_with_folder": rename_and_sync,
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(count):  # in turns, so that all meet the same disk
        for name in random.sample(list(ways), len(ways)):
            start = time.perf_counter()
            ways[name](number)
            spent[name].append(time.perf_counter() - start)
    middle = {name: statistics.median(seconds) for name, seconds in spent.items()}
    rates = {f"{name}_per_s": round(1 / seconds, 1) for name, seconds in middle.items()}
    spent_here = middle.pop("ledger")
    shares = {f"share_of_{name}": round(took / spent_here, 3) for name, took in middle.items()}
    return {**rates, **shares, "bytes": len(payload), "must": 0.8}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--commits", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where to write; default: temporary")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        commits_of_units = commits(Path(folder), arguments.commits)
    clock = Clock()
    for name in ("commit", "read", "discard", "claim"):
        clock.wrap(Ledger, name, "ledger")
    clock.wrap(os, "fsync", "fsync, those of the ledger included")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        fasta, out = Path(folder) / "reads.fa", Path(folder) / "out"
        with fasta.open("wb") as file:
            write_reads(file, arguments.reads * READ_NT)
        wall = predict(fasta, out)
        again = [sys.executable, "-m", "virnucpro", "-q", "predict", str(fasta), "-o", str(out)]
        started = time.perf_counter()
        subprocess.run([*again, "-d", "cpu", "--resume"], check=True)
        second = time.perf_counter() - started
    summary = {
        "about": "prediction with the bundled model, reads of 500 nt, CPU, one thread",
        "commits": commits_of_units,
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
