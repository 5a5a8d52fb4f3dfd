"""Peak memory of a run beside its encoders: reading, ORFs, units, ledger, calls and tables.

    python benchmarks/benchmark_memory.py --mbp 100 500 --output benchmarks/results/memory.json
    python benchmarks/benchmark_memory.py --measure record --mbp 1 50 \
        --output benchmarks/results/memory_record.json

Input is made up as it is written: reads, or one record of some letters. Every ORF gets a made-up
score. Each measurement is a process of its own; the constant is the peak of the smallest input,
and what a record, or a letter, costs is the rise from there to the largest. The smallest input of
reads should fill a few shards.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from result_file import keep

READ_NT = 500
LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
BLOCK = 20_000
PIECE_NT = 1_000_000
RECORDS = {"N": b"N", "A": b"A", "upper": b"ACGT", "lower": b"acgt"}


class MadeUpScores:
    """An executor that computes nothing."""

    def run(self, job: Any, items: Iterable[Any], on_rows: Any) -> Iterator[Any]:
        """See `virnucpro.pipeline.worker_loop.Executor`."""
        from virnucpro.pipeline.worker_loop import Done
        from virnucpro.scores.scorer import COLUMNS

        for key, (dna, _) in items:
            scores = np.full((len(dna), COLUMNS), np.nan, dtype=np.float32)
            scores[:, :3] = np.random.default_rng(key).standard_normal((len(dna), 3))
            yield Done(key, scores, {}, 0)

    def close(self) -> None:
        """Nothing to give back."""


def write_reads(file: BinaryIO, nt: int) -> None:
    """Random reads, a block in memory at a time."""
    draw = np.random.default_rng(1)
    reads = nt // READ_NT
    for start in range(0, reads, BLOCK):
        count = min(BLOCK, reads - start)
        rows = LETTERS[draw.integers(0, 4, size=(count, READ_NT), dtype=np.uint8)]
        for number, row in enumerate(rows, start=start):
            file.write(b">read_%09d\n" % number + row.tobytes() + b"\n")


def write_record(file: BinaryIO, nt: int, letters: bytes) -> None:
    """One record of letters drawn at random."""
    draw = np.random.default_rng(1)
    known = np.frombuffer(letters, dtype=np.uint8)
    file.write(b">record\n")
    for _ in range(0, nt, PIECE_NT):
        file.write(known[draw.integers(0, len(known), size=PIECE_NT)].tobytes())


def measure(what: str, nt: int, scratch: Path | None) -> dict[str, Any]:
    """Run one prediction in a process and take its peak."""
    command = [sys.executable, __file__, "--inside", what, str(nt)]
    command += ["--scratch", str(scratch)] if scratch else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(what, json.dumps(found), flush=True)
    return dict(found)


def inside(what: str, nt: int, scratch: Path | None) -> None:
    """Be the process that is measured."""
    from virnucpro.pipeline.prediction import run_prediction
    from virnucpro.pipeline.settings import Calling, Compute, Output, PredictionSettings

    settings = PredictionSettings(
        compute=Compute(device="cpu", threads=1),
        calling=Calling(min_score=0.0 if what != "reads" else None),  # a record is written again
        output=Output(progress=False),
    )
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        fasta = Path(folder) / "in.fa"
        with fasta.open("wb") as file:
            if what == "reads":
                write_reads(file, nt)
            else:
                write_record(file, nt, RECORDS[what])
        started = time.monotonic()
        run_prediction([fasta], Path(folder) / "out", settings, executor=MadeUpScores())
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"nt": nt, "seconds": round(seconds, 1), "peak_mib": round(peak / 2**20, 1)}))


def rise(found: list[dict[str, Any]], nt: int) -> float:
    """Bytes for each `nt` letters between the smallest and the largest input."""
    first, last = found[0], found[-1]
    more = (last["peak_mib"] - first["peak_mib"]) * 2**20
    return round(float(more) * nt / (last["nt"] - first["nt"]), 2)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=["reads", "record"], default="reads")
    parser.add_argument("--mbp", type=int, nargs="*", default=[100, 500])
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside[0], int(arguments.inside[1]), arguments.scratch)
        return
    sizes = [mbp * 1_000_000 for mbp in sorted(arguments.mbp)]
    summary: dict[str, Any] = {
        "about": f"peak memory of a run beside its encoders; reads of {READ_NT} nt, bundled model",
    }
    if arguments.measure == "reads":
        found = [measure("reads", nt, arguments.scratch) for nt in sizes]
        summary |= {"limit": "100 bytes a record above a constant"}
        summary |= {"bytes_a_record": rise(found, READ_NT), "runs": found}
    else:
        summary |= {"about": "peak memory of a run on one long record, bundled model"}
        summary |= {"limit": "6 bytes a letter whatever the letters are"}
        for what in RECORDS:
            found = [measure(what, nt, arguments.scratch) for nt in sizes]
            summary[what] = {"bytes_a_letter": rise(found, 1), "runs": found}
    keep(summary, arguments.output)


if __name__ == "__main__":
    main()
