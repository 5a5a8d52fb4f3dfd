"""What sharing a run costs: workers and Ray beside a local run.

    python benchmarks/benchmark_shared.py --reads 20000 --output benchmarks/results/shared.json

All three predict the same reads of 150 nt with the bundled model on two CPUs, from the command to
the tables. Seconds of the clock mean little where other programs run too, so seconds of CPU are
kept beside them, of all processes together. The cluster of Ray is there before its run begins.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from benchmark_memory import write_reads
from result_file import keep

COMMAND = [sys.executable, "-m", "virnucpro", "-q"]
TABLES = ("calls.tsv", "chunks.tsv", "viral.fasta", "regions.tsv")


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds of `work` and of all processes below this one."""
    seen: dict[int, list[float]] = {}
    end = threading.Event()

    def watch() -> None:
        while True:
            for process in psutil.Process().children(recursive=True):
                try:
                    used = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue
                seen.setdefault(process.pid, [used, used])[1] = used
            if end.wait(0.2):
                return

    before = {p.pid for p in psutil.Process().children(recursive=True)}
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    work()
    wall = time.perf_counter() - start
    end.set()
    watcher.join()
    cpu = sum(last - (first if pid in before else 0.0) for pid, (first, last) in seen.items())
    return {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}


def overheads(folder: Path, reads: Path) -> dict[str, Any]:
    """A local run, one of two workers, one of two actors; and whether their tables are alike."""

    def command(*words: object) -> None:
        subprocess.run([*COMMAND, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def workers() -> None:
        command("plan", reads, "-o", folder / "workers", "-d", "cpu", "--no-report")
        words = [*COMMAND, "worker", str(folder / "workers"), "-d", "cpu", "-t", "1"]
        for worker in [subprocess.Popen(words, stdout=subprocess.DEVNULL) for _ in range(2)]:
            worker.wait()
        command("finish", folder / "workers")

    local = ["predict", reads, "-d", "cpu", "-t", 2, "--no-report", "-o"]
    found = {"local": measured(lambda: command(*local, folder / "local"))}
    found["two workers"] = measured(workers)
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    ray = ["--executor", "ray", "--ray-address", cluster.address]
    found["two actors of Ray"] = measured(lambda: command(*local, folder / "ray", *ray))
    cluster.shutdown()
    found["local again"] = measured(lambda: command(*local, folder / "again"))
    for name in ("workers", "ray"):
        for table in TABLES:
            same = (folder / name / table).read_bytes() == (folder / "local" / table).read_bytes()
            if not same:
                sys.exit(f"{name}: {table} differs")
    start = measured(lambda: command("worker", "--help"))
    return {"runs": found, "start_s": start["wall_s"], "tables": "identical"}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--fastq", type=Path, help="in place of made-up reads")
    parser.add_argument("--folder", type=Path, help="where runs lie; default: temporary")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder, reads = Path(name), arguments.fastq
        if reads is None:
            reads = folder / "reads.fa"
            write_reads(reads, arguments.reads)
        found = overheads(folder, reads)
    summary = {
        "about": "the bundled model on two CPUs: a local run, two workers, two actors of Ray",
        **found,
    }
    keep(summary, arguments.output)


if __name__ == "__main__":
    main()
