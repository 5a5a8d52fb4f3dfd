"""Speed of the bundled model on a CPU: chunks of 500 nt a second, from letters to calls.

Windows of 500 nt are cut from the sequences of `examples/demo.fa` at odd places, so that no two
are alike. Every figure is the best of some rounds, by the clock on the wall and by processor
time, since other programs on the machine stretch the former only. Vectors and calls of all
ways of computing are compared with those of the first. On a machine that does other work too, a
processor second of two threads holds time in which one waits for the other.

Usage: python -m benchmarks.benchmark_model_cpu [--chunks 400] [--against FOLDER] [--output FILE]

FOLDER holds the code of another version, whose own benchmark of this name runs after.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.result_file import keep
from virnucpro.core.records import Record
from virnucpro.engines.base import EngineOptions
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.stream import DirectScorer
from virnucpro.sequences.fasta import read_records

ROOT = Path(__file__).resolve().parents[1]
CHUNK_NT = 500
STEP_NT = 97
ROUNDS = 5
WAYS = (  # engine, number format, threads
    ("padded", "float32", 1),
    ("packed", "float32", 1),
    ("padded", "bfloat16", 1),
    ("padded", "float32", 2),
    ("packed", "float32", 2),
)


def windows(count: int) -> list[Record]:
    """The first `count` windows without an N, in order of the file."""
    found = []
    for record in read_records([ROOT / "examples" / "demo.fa"]):
        if record.seq_id.startswith(("random", "poly", "gap", "short")):
            continue
        for start in range(0, len(record.sequence) - CHUNK_NT + 1, STEP_NT):
            letters = record.sequence[start : start + CHUNK_NT]
            found.append(Record(f"{record.seq_id}_{start}", "", letters))
    return found[:: max(1, len(found) // count)][:count]


def timed(action) -> tuple[float, float]:
    """Seconds on the wall and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(records: list[Record], way: tuple[str, str, int], first: dict) -> dict:
    engine, dtype, threads = way
    torch.set_num_threads(threads)
    load = round(os.getloadavg()[0], 2)
    model = resolve_model("mini", None, Path("no-home"))
    scorer = DirectScorer(model, "cpu", EngineOptions(engine=engine, dtype=dtype))
    list(scorer.score(records[:32]))
    rounds = [timed(lambda: list(scorer.score(records))) for _ in range(ROUNDS)]
    [(shard, vectors)] = scorer.vectors(records)
    rows = list(scorer.score(records))
    p = np.array([row.p_virus for row in rows])
    first.setdefault("vectors", vectors)
    first.setdefault("p", p)
    first.setdefault("calls", [row.call for row in rows])
    wall, cpu = (min(column) for column in zip(*rounds, strict=True))
    return {
        "engine": engine,
        "dtype": dtype,
        "threads": threads,
        "chunks_per_s": round(len(records) / wall, 1),
        "chunks_per_cpu_s": round(len(records) / cpu, 1),
        "busy_cores": round(cpu / wall, 2),
        "load_before": load,
        "largest_vector_difference": float(np.abs(vectors - first["vectors"]).max()),
        "largest_p_virus_difference": float(np.abs(p - first["p"]).max()),
        "calls_changed": sum(a.call != b for a, b in zip(rows, first["calls"], strict=True)),
        "mean_residues": round(float(np.mean(shard.orfs["end"] - shard.orfs["start"])) / 3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    records = windows(options.chunks)
    first: dict = {}
    result = {
        "command": f"python -m {__spec__.name} {' '.join(sys.argv[1:])}",
        "torch": torch.__version__,
        "chunk_nt": CHUNK_NT,
        "chunks": len(records),
        "rounds": ROUNDS,
        "results": [],
    }
    for way in WAYS:
        result["results"].append(measure(records, way, first))
        print(json.dumps(result["results"][-1]), flush=True)
    if options.against:
        with tempfile.NamedTemporaryFile("r") as file:
            command = [sys.executable, "-m", __spec__.name, "--output", file.name]
            folder = options.against.resolve()
            env = os.environ | {"PYTHONPATH": str(folder)}
            chunks = ["--chunks", str(options.chunks)]
            subprocess.run([*command, *chunks], cwd=folder, env=env, check=True)
            result["against"] = json.load(file)["results"]
    keep(result, options.output)


if __name__ == "__main__":
    main()
