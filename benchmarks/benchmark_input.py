"""The input pass of one FASTQ in two processes, beside two passes over a half each.

    python benchmarks/benchmark_input.py --mbp 2000 --output benchmarks/results/input.json

Made-up reads of 150 nt. Each pass is a command of its own, from its start to its end: it reads,
cuts and translates as `virnucpro plan` does, under the bundled model's rules, and keeps nothing.
Both ways are timed one after the other; seconds of CPU, of all processes together, and the peak
memory of the process that knows the records are kept beside.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from result_file import keep

READ_NT = 150
LETTERS = np.frombuffer(b"ACGT", dtype=np.uint8)
BLOCK = 20_000


def write_reads(path: Path, count: int, first: int = 0) -> None:
    """FASTQ of so many reads, the `first` of which gives their letters."""
    draw, quality = np.random.default_rng(first), b"I" * READ_NT
    with path.open("wb") as file:
        for start in range(first, first + count, BLOCK):
            shape = min(BLOCK, first + count - start), READ_NT
            letters = LETTERS[draw.integers(0, 4, shape, dtype=np.uint8)]
            for number, row in enumerate(letters, start=start):
                name = b"@run.%d %d" % (number, number)
                file.write(b"\n".join([name, row.tobytes(), b"+", quality, b""]))


def one_pass(path: Path, workers: int) -> None:
    """What a process of this benchmark runs: a whole input pass."""
    from virnucpro.pipeline.input_pass import Rules, read_inputs
    from virnucpro.pipeline.inputs import plan_sources
    from virnucpro.pipeline.run import choose_model
    from virnucpro.pipeline.settings import ModelChoice
    from virnucpro.sequences.read_log import ReadLog

    model = choose_model(ModelChoice())
    rules = Rules(model.chunk_nt, model.orf_policy)
    sources = plan_sources([path], {}, paired=False)
    for _ in read_inputs(sources, rules, 10_000, workers, ReadLog()):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def timed(paths: list[Path], workers: int) -> dict[str, float]:
    """Seconds until the passes over all `paths`, begun together, have ended."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--workers", str(workers), "--pass-over"]
    passes = [subprocess.Popen([*command, str(path)], stdout=subprocess.PIPE) for path in paths]
    peaks = [float(one.communicate()[0] or 0) for one in passes]
    if any(one.returncode for one in passes):
        sys.exit("a pass failed")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_mib": round(max(peaks), 1),
            "load": round(os.getloadavg()[0], 1)}  # fmt: skip


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbp", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the reads lie; default: temporary")
    parser.add_argument("--pass-over", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if arguments.pass_over:
        one_pass(arguments.pass_over, arguments.workers)
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        halves = [Path(name) / "first.fastq", Path(name) / "second.fastq"]
        half = arguments.mbp * 500_000 // READ_NT
        whole = Path(name) / "whole.fastq"
        with whole.open("wb") as both:
            for number, path in enumerate(halves):
                write_reads(path, half, number * half)
                with path.open("rb") as file:
                    shutil.copyfileobj(file, both)
        ways = {"two passes": (halves, 1), "two processes": ([whole], 2)}
        for number in range(arguments.rounds):
            for way in (ways, reversed(ways))[number % 2]:
                rows.append({"case": way, **timed(*ways[way])})
                print(rows[-1], flush=True)
    spent = {
        (way, of): sum(row[of] for row in rows if row["case"] == way)
        for way in ways
        for of in ("wall_s", "cpu_s")
    }
    nt = arguments.mbp * arguments.rounds
    summary = {
        "about": "the input pass of one FASTQ in two processes, beside two passes of a half each",
        "mbp": arguments.mbp,
        "runs": rows,
        "mbp_per_s": round(nt / spent["two processes", "wall_s"], 2),
        "mbp_per_cpu_s": round(nt / spent["two processes", "cpu_s"], 2),
        "share": round(spent["two passes", "wall_s"] / spent["two processes", "wall_s"], 3),
        "share_of_cpu": round(spent["two passes", "cpu_s"] / spent["two processes", "cpu_s"], 3),
        "must": 0.9,
    }
    keep(summary, arguments.output)


if __name__ == "__main__":
    main()
