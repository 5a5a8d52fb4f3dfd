"""Peak memory of a run beside its encoders: reading, ORFs, units, ledger, calls and tables.

    python benchmarks/benchmark_memory.py --mbp 100 500 --output benchmarks/results/memory.json

Input is made up as it is written, and every ORF gets a made-up score. Each measurement is a
process of its own; the constant is the peak of the smallest input, which should fill a few shards,
and what a record costs is the rise from there to the largest.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

READ_NT = 500
LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
BLOCK = 20_000


class MadeUpScores:
    """An executor that computes nothing."""

    def run(self, job: Any, items: Iterable[Any], on_rows: Any) -> Iterator[Any]:
        """See `virnucpro.pipeline.worker_loop.Executor`."""
        from virnucpro.pipeline.worker_loop import Done

        for key, (dna, _) in items:
            draw = np.random.default_rng(key)
            yield Done(key, draw.standard_normal((len(dna), 3)).astype(np.float32), {}, 0)

    loads = 0

    def close(self) -> None:
        """Nothing to give back."""


def write_reads(path: Path, reads: int, nt: int = READ_NT) -> None:
    """Random reads, a block in memory at a time."""
    draw = np.random.default_rng(1)
    with path.open("wb") as file:
        for start in range(0, reads, BLOCK):
            count = min(BLOCK, reads - start)
            rows = LETTERS[draw.integers(0, 4, size=(count, nt), dtype=np.uint8)]
            for number, row in enumerate(rows, start=start):
                file.write(b">read_%09d\n" % number + row.tobytes() + b"\n")


def measure(reads: int, scratch: Path | None) -> dict[str, Any]:
    """Run one prediction in a process and take its peak."""
    command = [sys.executable, __file__, "--inside", str(reads)]
    command += ["--scratch", str(scratch)] if scratch else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return dict(found)


def inside(reads: int, scratch: Path | None) -> None:
    """Be the process that is measured."""
    from virnucpro.pipeline.prediction import run_prediction
    from virnucpro.pipeline.settings import Compute, Output, PredictionSettings

    settings = PredictionSettings(
        compute=Compute(device="cpu", threads=1), output=Output(progress=False)
    )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        fasta = Path(folder) / "reads.fa"
        write_reads(fasta, reads)
        started = time.monotonic()
        run_prediction([fasta], Path(folder) / "out", settings, executor=MadeUpScores())
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"records": reads, "seconds": round(seconds, 1), "peak_mib": round(peak / 2**20, 1)}
    print(json.dumps(found))


def rise(found: list[dict[str, Any]]) -> float:
    """Bytes a record between the smallest and the largest input."""
    first, last = found[0], found[-1]
    more = (last["peak_mib"] - first["peak_mib"]) * 2**20
    return round(float(more) / (last["records"] - first["records"]), 1)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbp", type=int, nargs="*", default=[100, 500])
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inside", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside, arguments.scratch)
        return
    counts = [mbp * 1_000_000 // READ_NT for mbp in sorted(arguments.mbp)]
    found = [measure(count, arguments.scratch) for count in counts]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    summary = {
        "about": f"peak memory of a run beside its encoders; reads of {READ_NT} nt, bundled model",
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one core, shared",
        "limit": "100 bytes a record above a constant",
        "bytes_a_record": rise(found),
        "runs": found,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
