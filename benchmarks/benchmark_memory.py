"""Peak memory of what comes before the encoders, and of the index of sequences.

    python benchmarks/benchmark_memory.py --mbp 50 500 2000 --index 20000000 --rows 20000000 \
        --output benchmarks/results/memory.json

Input is made up as it is written. Each measurement is a process of its own; the constant is the
peak of the smallest input, and what a record costs is the rise from there to the largest.
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
from pathlib import Path
from typing import Any

import numpy as np

READ_NT = 500
LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
BLOCK = 20_000
SPLIT = 10_000


def write_reads(path: Path, reads: int, nt: int = READ_NT, first: int = 0) -> None:
    """Random reads, a block in memory at a time."""
    draw = np.random.default_rng(1)
    with path.open("wb") as file:
        for start in range(0, reads, BLOCK):
            count = min(BLOCK, reads - start)
            rows = LETTERS[draw.integers(0, 4, size=(count, nt), dtype=np.uint8)]
            for number, row in enumerate(rows, start=first + start):
                file.write(b">read_%09d\n" % number + row.tobytes() + b"\n")


def stages(folder: Path, reads: int) -> dict[str, Any]:
    """Stages 1 to 4 with the bundled model's policy, in this process."""
    from virnucpro.pipeline.ingest import ingest

    from virnucpro.core.progress import ProgressReporter
    from virnucpro.pipeline import orf_stages
    from virnucpro.pipeline.inputs import plan_sources
    from virnucpro.pipeline.paths import RunPaths
    from virnucpro.pipeline.settings import ModelChoice
    from virnucpro.sequences.orfs import OrfPolicy

    fasta, policy = folder / "reads.fa", OrfPolicy("longest", 1)
    write_reads(fasta, reads)
    paths = RunPaths(folder, "reads", READ_NT)
    paths.checkpoints.mkdir()
    started = time.monotonic()
    ingest(plan_sources([fasta], {}, False), paths, ModelChoice(), policy)
    counts = orf_stages.translate(paths, policy, 1, ProgressReporter(False), reads)
    split = orf_stages.split(paths, 10_000)
    return {"records": reads, "seconds": time.monotonic() - started, **counts, **split}


def index(folder: Path, sequences: int) -> dict[str, Any]:
    """The index that packed stages plan with, over split files as the pipeline writes them."""
    from virnucpro.pipeline.sequence_index import build_index

    files = [folder / f"output_{number}.fa" for number in range(-(-sequences // SPLIT))]
    for number, file in enumerate(files):
        write_reads(file, min(SPLIT, sequences - number * SPLIT), 20, number * SPLIT)
    started = time.monotonic()
    found = build_index(files)
    return {"records": len(found), "seconds": time.monotonic() - started}


def rows(folder: Path, sequences: int) -> dict[str, Any]:
    """The index of ids with which vectors find back to their files."""
    import h5py
    from virnucpro.pipeline.row_index import VectorFile

    path = folder / "embeddings.h5"
    with h5py.File(path, "w") as file:
        ids = file.create_dataset("sequence_ids", (sequences,), dtype=h5py.string_dtype())
        file.create_dataset("embeddings", (sequences, 1), dtype="<f4")
        for start in range(0, sequences, BLOCK):
            stop = min(start + BLOCK, sequences)
            ids[start:stop] = [f"read_{number:09}_chunk_1F1" for number in range(start, stop)]
    started = time.monotonic()
    with VectorFile(path, "test") as vectors:
        wanted = [f"read_{number:09}_chunk_1F1" for number in range(10_000)]
        assert len(vectors.of(wanted)) == 10_000
    return {"records": sequences, "seconds": time.monotonic() - started}


MEASURES = {"stages": stages, "index": index, "rows": rows}


def measure(what: str, count: int, scratch: Path | None) -> dict[str, Any]:
    """Run one measurement in a process and take its peak."""
    command = [sys.executable, __file__, "--inside", what, str(count)]
    command += ["--scratch", str(scratch)] if scratch else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    found = json.loads(done.stdout.splitlines()[-1])
    print(what, json.dumps(found), flush=True)
    return dict(found)


def inside(what: str, count: int, scratch: Path | None) -> None:
    """Be the process that is measured."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        found = MEASURES[what](Path(folder), count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found["seconds"] = round(found["seconds"], 1)
    print(json.dumps({**found, "peak_mib": round(peak / 2**20, 1)}))


def rise(found: list[dict[str, Any]]) -> float:
    """Bytes a record between the smallest and the largest input."""
    first, last = found[0], found[-1]
    more = (last["peak_mib"] - first["peak_mib"]) * 2**20
    return round(float(more) / (last["records"] - first["records"]), 1)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbp", type=int, nargs="*", default=[50, 500])
    parser.add_argument("--index", type=int, default=2_000_000)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.inside[0], int(arguments.inside[1]), arguments.scratch)
        return
    counts = {
        "stages": [mbp * 1_000_000 // READ_NT for mbp in sorted(arguments.mbp)],
        "index": [100_000, arguments.index],
        "rows": [100_000, arguments.rows],
    }
    results = {}
    for what, sizes in counts.items():
        found = [measure(what, count, arguments.scratch) for count in sizes]
        results[what] = {"bytes_a_record": rise(found), "runs": found}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    summary = {
        "about": f"peak memory; reads of {READ_NT} nt, ORF policy longest, 1 kept",
        "command": " ".join(["python", *sys.argv]),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, one core, shared",
        "limit": "100 bytes a record above a constant",
        **results,
    }
    if arguments.output:
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
