"""Seconds from a signal to the end of a run and of every process that it started.

    python benchmarks/benchmark_stop.py --output benchmarks/results/stop.json

Real runs on tiny weights, each stopped once at a random moment.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "reliability"), str(ROOT)]

from result_file import keep  # noqa: E402
from runs import Runs, are_gone, descendants  # noqa: E402

MODES = {
    "one process": ((), 20),
    "packed, 2 ranks": (("--parallel", "--ranks", "2"), 5),
    "persistent workers": (("--persistent-models",), 5),
}
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def stop_one(runs: Runs, out: Path, options: tuple[str, ...], draw: random.Random) -> float | None:
    """Seconds until all is over; None if the run had ended before."""
    number = draw.choice(list(CODES))
    running = runs.start(out, *options)
    running.process.join(draw.uniform(0.2, 8.0 if options else 1.0))
    children = descendants(running.pid)
    started = time.monotonic()
    running.send(number)
    running.process.join()
    if running.code == 0:
        return None
    if running.code != CODES[number] or not are_gone(children):
        sys.exit(f"exit code {running.code}, or a child is left: {running.said}")
    return time.monotonic() - started


def main() -> None:
    """Stop runs and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    from tiny_published import make_tiny_home

    draw, results = random.Random(1), {}
    with tempfile.TemporaryDirectory() as name:
        runs = Runs(Path(name), make_tiny_home(Path(name) / "home"), records=30)
        for mode, (options, count) in MODES.items():
            found = [
                stop_one(runs, Path(name) / f"{mode} {n}", options, draw) for n in range(count)
            ]
            seconds = sorted(value for value in found if value is not None)
            results[mode] = {
                "stopped": len(seconds),
                "median_s": round(seconds[len(seconds) // 2], 2),
                "longest_s": round(seconds[-1], 2),
            }
    summary: dict[str, Any] = {
        "about": "seconds from SIGTERM or SIGINT to the end of a run and all its processes",
        "limit_s": 5.0,
        "modes": results,
    }
    keep(summary, arguments.output)


if __name__ == "__main__":
    main()
