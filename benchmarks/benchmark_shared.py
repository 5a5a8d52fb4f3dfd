"""What sharing a run costs: `plan`, workers and `finish`, and Ray, beside `predict` alone.

    python benchmarks/benchmark_shared.py --reads 20000 --output benchmarks/results/shared.json
    python benchmarks/benchmark_shared.py --reads 30000 --gpus 1 2 --folder /dev/shm \
        --tokenizer .bench/tokenizer.json --output benchmarks/results/shared_gpu.json

All predict the same made-up reads of 150 nt in units of 2,500 ORFs, from the command to the tables:
with the bundled model on two CPUs, or on so many `--gpus` with random weights of the published
size, after a short run that leaves kernels in Triton's cache. Seconds of the clock mean little
where other programs run too, so on CPUs seconds of CPU are kept beside them, of all processes
together, and the same of 100 reads, which is starting. A cluster of Ray is there before its run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmark_input import write_reads
from result_file import keep

COMMAND = [sys.executable, "-m", "virnucpro", "-q"]
TABLES = ("calls.tsv", "chunks.tsv", "viral.fasta", "regions.tsv")
SETTINGS = "prediction:\n  sequences_per_file: 2500\n"


def measured(work: Callable[..., object], *given: Any) -> dict[str, float]:
    """Wall and CPU seconds of `work` and of all processes below this one."""
    import psutil

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
    wall = timed(work, *given)["wall_s"]
    end.set()
    watcher.join()
    cpu = sum(last - (first if pid in before else 0.0) for pid, (first, last) in seen.items())
    return {"wall_s": wall, "cpu_s": round(cpu, 1), "load": round(os.getloadavg()[0], 1)}


def timed(work: Callable[..., object], *given: Any) -> dict[str, float]:
    """Wall seconds of `work`."""
    start = time.perf_counter()
    work(*given)
    return {"wall_s": round(time.perf_counter() - start, 1)}


class Runs:
    """Runs of the same reads below one folder."""

    def __init__(self, folder: Path, reads: int, model: str) -> None:
        self.folder, self.reads = folder, folder / "reads.fastq"
        folder.mkdir()
        write_reads(self.reads, reads)
        (folder / "settings.yaml").write_text(SETTINGS)
        self.program = [*COMMAND, "-c", str(folder / "settings.yaml")]
        self.options = ["-m", model, "--no-report"]

    def command(self, *words: object) -> None:
        """One command to its end."""
        subprocess.run([*self.program, *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    def local(self, name: str, *words: object) -> None:
        """`predict`, into a folder of this name."""
        self.command("predict", self.reads, *self.options, "-o", self.folder / name, *words)

    def shared(self, name: str, kind: str, workers: list[list[str]]) -> None:
        """`plan`, so many workers with these words of their own, `finish`."""
        out = self.folder / name
        self.command("plan", self.reads, *self.options, "-o", out, "-d", kind)
        lines = [[*self.program, "worker", str(out), *words] for words in workers]
        if any([one.wait() for one in [*map(subprocess.Popen, lines)]]):
            sys.exit(f"{name}: a worker failed")
        self.command("finish", out)

    def check(self, first: str, *others: str) -> None:
        """See that all made the same tables."""
        for name in others:
            for table in TABLES:
                if len({(self.folder / one / table).read_bytes() for one in (first, name)}) > 1:
                    sys.exit(f"{name}: {table} is not that of {first}")


def on_cpus(runs: Runs, few: Runs) -> dict[str, Any]:
    """A local run, two workers, two on Ray, a local run; and `few` reads, to tell starts."""
    from ray.cluster_utils import Cluster

    here, found = ["-d", "cpu", "-t", 2], {}
    workers = [["-d", "cpu", "-t", "1"]] * 2
    for one, reads in ((few, ", few reads"), (runs, "")):
        found[f"local{reads}"] = measured(one.local, "local", *here)
        found[f"two workers{reads}"] = measured(one.shared, "workers", "cpu", workers)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
        ray = ["--executor", "ray", "--ray-address", cluster.address]
        found[f"two workers on Ray{reads}"] = measured(one.local, "ray", *here, *ray)
        cluster.shutdown()
    found["local again"] = measured(runs.local, "again", *here)
    runs.check("local", "workers", "ray", "again")
    alone = [found[name]["cpu_s"] for name in ("local", "local again", "local, few reads")]
    scoring = (alone[0] + alone[1]) / 2 - alone[2]
    overhead = {
        name: round((found[name]["cpu_s"] - found[f"{name}, few reads"]["cpu_s"]) / scoring - 1, 3)
        for name in ("two workers", "two workers on Ray")
    }
    return {"runs": found, "overhead_of_cpu_without_start": overhead, "must": 0.1}


def on_gpus(runs: Runs, counts: list[int], is_tiny: bool) -> dict[str, Any]:
    """`predict` and workers on so many GPUs, or as many CPUs."""
    kind = "cpu" if is_tiny else "cuda"
    found = {"kernels": timed(runs.local, "kernels", "-d", kind, "--sample-n", 300)}
    for count in counts:
        alone, shared = f"local {count}", f"workers {count}"
        here = ["-d", "cpu"] if is_tiny else ["--gpus", ",".join(map(str, range(count)))]
        found[f"predict, {count} GPU"] = timed(runs.local, alone, *here)
        workers = [["-d", kind if is_tiny else f"cuda:{k}"] for k in range(count)]
        found[f"workers, {count} GPU"] = timed(runs.shared, shared, kind, workers)
        print(found, flush=True)
        runs.check(f"local {counts[0]}", alone, shared)
    return {"runs": found}


def install_random(folder: Path, tokenizer: Path, tiny: bool) -> None:
    """Random weights of the published size as model 500 of a home of its own."""
    from benchmark_job import made_model
    from engine_tools import Bench

    from virnucpro.models.specs import DNA_ENCODER, PROTEIN_ENCODER, needed_files
    from virnucpro.models.store import describe_encoder, install_classifier, write_manifest

    made = made_model(Bench(folder / "bench.json", folder / "weights", tiny), tokenizer)
    home = folder / "models"
    (home / "encoders").mkdir(parents=True)
    for slot, name in (("dna", DNA_ENCODER), ("protein", PROTEIN_ENCODER)):
        path = Path(made[slot]["path"])
        said = describe_encoder(path, name) | {"source": "random", "revision": ""}
        write_manifest(path, needed_files(one.name for one in path.iterdir()), **said)
        (home / "encoders" / name).symlink_to(path)
    install_classifier(made["classifier"], "500", home, "random")
    os.environ["VIRNUCPRO_MODEL_DIR"] = str(home)


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--gpus", type=int, nargs="+", help="numbers of GPUs; default: CPUs")
    parser.add_argument("--tokenizer", type=Path, default=Path(".bench/tokenizer.json"))
    parser.add_argument("--tiny", action="store_true", help="toy networks, CPUs as GPUs")
    parser.add_argument("--folder", type=Path, help="where runs lie; default: temporary")
    parser.add_argument("--commit", help="kept with the results where git knows none")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        runs = Runs(folder / "all", arguments.reads, "500" if arguments.gpus else "mini")
        if arguments.gpus:
            install_random(folder, arguments.tokenizer, arguments.tiny)
            found = on_gpus(runs, arguments.gpus, arguments.tiny)
        else:
            few = Runs(folder / "few", 100, "mini")
            found = on_cpus(runs, few)
    about = "`predict` alone, and the same run shared by workers and by workers on Ray"
    summary = {"about": about, "reads": arguments.reads, **found, "tables": "identical"}
    keep(summary, arguments.output, arguments.commit)


if __name__ == "__main__":
    main()
