"""Runs of the command: in this process, or in forked ones that have imported everything already."""

import json
import multiprocessing
import os
import random
import sys
import time
from pathlib import Path

PRELOADED = ["torch", "pytest", "virnucpro.cli.main", "virnucpro.cli.predict"]
PRELOADED += [f"virnucpro.pipeline.{name}" for name in ("prediction", "multi_gpu_inference")]
PRELOADED += ["virnucpro.pipeline.features", "virnucpro.engines.packed", "virnucpro.engines.padded"]
PRELOADED += ["virnucpro.encoders.load", "virnucpro.scores.classifier", "virnucpro.reports.html"]

SETTINGS = "prediction: {sequences_per_file: %d}\nprogress: {enabled: false}\n"
OPTIONS = ["-m", "500", "--orf-policy", "longest", "-t", "1"]


def context():
    """Where processes are forked from: one that has imported torch and the pipeline."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def write_input(path, records, nt=600, seed=0):
    draw = random.Random(seed)
    ids = ["../up", "a|b", "x" * 50, "<b>id</b>", "é", "dup", "dup"]
    lines = []
    for number in range(records):
        name = ids[number] if number < len(ids) else f"contig_{number}"
        length = draw.choice([20, nt // 2, nt, nt + 500, 2 * nt])
        lines.append(f">{name} of test\n{''.join(draw.choices('ACGT', k=length))}\n")
    lines += [">protein\nMKVLEEFPQWMKVLEEFPQWMKVLEEFPQW\n", f">masked\n{'N' * 200}\n", ">empty\n\n"]
    path.write_text("".join(lines), encoding="utf-8")
    return path


class Runs:
    """Starts runs of `predict` on one input, `per_file` ORFs a unit, with one model home."""

    def __init__(self, folder: Path, home: Path, per_file=14, records=10):
        self.folder, self.home, self.number = folder, home, 0
        self.input = write_input(folder / "reads.fa", records)
        self.settings = folder / "settings.yaml"
        self.settings.write_text(SETTINGS % per_file)
        self.context = context()
        first = self.context.Process(target=int)  # starts the server, which imports for seconds
        first.start()
        first.join()

    def start(self, out: Path, *options, fault=None):
        """Start a run that goes on by itself; its process calls `fault` before the command."""
        words = ["predict", str(self.input), *OPTIONS, "-o", str(out), "--no-report", *options]
        return self.command("-q", *words, fault=fault)

    def command(self, *words, fault=None):
        self.number += 1
        log = self.folder / f"log-{self.number}.txt"
        environ = {"VIRNUCPRO_MODEL_DIR": str(self.home), "OMP_NUM_THREADS": "1"}
        words = ["-c", str(self.settings), *map(str, words)]
        process = self.context.Process(target=run_command, args=(words, environ, log, fault))
        process.start()
        return Running(process, log)

    def finish(self, out: Path, *options, fault=None):
        running = self.start(out, *options, fault=fault)
        running.process.join()
        return running


class Running:
    def __init__(self, process, log):
        self.process, self.log, self.pid = process, log, process.pid

    @property
    def code(self):
        """Exit code; negative for a signal; None while it runs."""
        return self.process.exitcode

    @property
    def said(self):
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def send(self, number):
        if not self.process.is_alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:  # it has ended since
            return False
        return True


def run_command(arguments, environ, log, fault):
    import torch

    from virnucpro.cli.main import main

    torch.set_num_threads(1)
    os.environ.update(environ)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if fault is not None:
        fault()
    sys.argv = ["virnucpro", *arguments]
    main()


def descendants(pid: int) -> list[int]:
    """Living processes that descend from `pid`, zombies left out."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := status_of(entry.name)):
            parents[int(entry.name)] = int(fields[1])
    found, level = [], {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += level
    return found


def status_of(pid) -> list[str]:
    """State, parent and on of a process; nothing where there is none but a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []
    return [] if fields[0] == "Z" else fields


def wait_for(condition, seconds=60.0) -> bool:
    """Whether a condition comes true within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def are_gone(pids, seconds=10.0) -> bool:
    return wait_for(lambda: not any(map(status_of, pids)), seconds)


def entries(out: Path) -> dict[str, Path]:
    """Files of the ledger by the unit of work they speak of."""
    files = (out / ".checkpoints" / "ledger").glob("[!.]*.entry")
    return {json.loads(path.read_bytes().split(b"\n", 2)[1])["unit"]: path for path in files}


def results(out: Path) -> dict[str, bytes]:
    """Content of every file a run is made for, by name; not of run.json, which holds times."""
    names = ["calls.tsv", "chunks.tsv", "regions.tsv", "viral.fasta", "viral_regions.bed"]
    names += ["viral_chunks.bed", "viral.gff3"]
    paths = [*(out / name for name in names), *out.glob("*_merged/prediction_results*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}
