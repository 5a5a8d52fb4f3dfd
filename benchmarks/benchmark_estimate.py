"""How far `virnucpro estimate` is from the truth: both are run, on inputs of several sizes.

Run `python -m benchmarks.benchmark_estimate`; it writes benchmarks/results/estimate.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.result_file import keep

ROOT = Path(__file__).parents[1]
SIZES = {"contigs": (1_500, 4_000), "reads": (6_000, 20_000)}


def write_input(path: Path, kind: str, records: int) -> None:
    """Random genes with stops between them: contigs of 500 to 5,000 nt, or reads of 150 nt."""
    rng = random.Random(records)
    codons = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
    with path.open("w") as file:
        for number in range(records):
            length = 150 if kind == "reads" else int(10 ** rng.uniform(2.7, 3.7))
            sequence = "".join(rng.choices(codons, k=length // 3))
            file.write(f">{kind}_{number}\n{sequence}\n")


def predict(fasta: Path, model: str, device: str) -> tuple[float, int]:
    """Seconds and peak memory (bytes) of a prediction, in a process of its own."""
    with TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "virnucpro", "-q", "predict", str(fasta),
            "-o", f"{folder}/out", "-m", model, "-d", device,
        ]  # fmt: skip
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
        return time.monotonic() - start, usage.ru_maxrss * 1024


def compare(fasta: Path, model: str, device: str) -> dict[str, Any]:
    """One input, estimated and run."""
    command = [
        sys.executable, "-m", "virnucpro", "-q", "estimate", str(fasta), "--json",
        "-m", model, "-d", device,
    ]  # fmt: skip
    start, load = time.monotonic(), os.getloadavg()[0]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    took = time.monotonic() - start
    (row,) = json.loads(done.stdout)
    (run,) = row["runs"]
    seconds, memory = predict(fasta, model, device)
    return {
        "model": model, "device": device, "records": row["records"], "chunks": row["chunks"],
        "estimated_s": round(run["seconds"], 1), "true_s": round(seconds, 1),
        "time_off_percent": round(100 * (run["seconds"] / seconds - 1), 1),
        "memory_off_percent": round(100 * (run["memory"] / memory - 1), 1),
        "estimating_took_s": round(took, 1),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    """Compare for each kind and size of input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/estimate.json")
    options = parser.parse_args()
    rows = []
    with TemporaryDirectory() as folder:
        for kind in options.kinds:
            for records in SIZES[kind]:
                fasta = Path(folder) / f"{kind}_{records}.fa"
                write_input(fasta, kind, records)
                rows.append({"input": kind, **compare(fasta, options.model, options.device)})
                print(rows[-1], flush=True)
    result = {
        "title": "Estimates against the truth",
        "command": " ".join(["python -m benchmarks.benchmark_estimate", *sys.argv[1:]]),
        "results": rows,
    }
    keep(result, options.out)


if __name__ == "__main__":
    main()
