"""Real runs of the command in forked processes that have imported everything already."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

PRELOADED = ["torch", "tiny_home", "virnucpro.cli.main", "virnucpro.cli.predict"]
PRELOADED += [f"virnucpro.pipeline.{name}" for name in ("prediction", "multi_gpu_inference")]
PRELOADED += ["virnucpro.pipeline.features", "virnucpro.engines.packed", "virnucpro.engines.padded"]
PRELOADED += ["virnucpro.encoders.load", "virnucpro.scores.classifier", "virnucpro.reports.html"]

Fault = Callable[[], object]

SETTINGS = "prediction: {sequences_per_file: %d}\nprogress: {enabled: false}\n"
OPTIONS = ["-m", "500", "--orf-policy", "longest", "-t", "1"]


def context() -> multiprocessing.context.ForkServerContext:
    """Where runs are forked from: one process that has imported torch and the pipeline."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def write_input(path: Path, records: int = 30, nt: int = 600, seed: int = 0) -> Path:
    """Random DNA with records of every status, and ids that are no plain words."""
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
    """Starts runs of `predict` on one input with one model home.

    Args:
        folder: for the input, settings and logs; the caller removes it.
        home: of the models.
        per_file: ORFs per unit of work.
    """

    def __init__(self, folder: Path, home: Path, per_file: int = 14, records: int = 10) -> None:
        self.folder, self.home = folder, home
        self.input = write_input(folder / "reads.fa", records)
        self.settings = folder / "settings.yaml"
        self.settings.write_text(SETTINGS % per_file)
        self._context = context()
        self._number = 0
        first = self._context.Process(target=int)  # starts the server, which imports for seconds
        first.start()
        first.join()

    def command(self, out: Path, *options: str) -> list[str]:
        """Arguments of one run into `out`."""
        words = ["-q", "-c", str(self.settings), "predict", str(self.input), *OPTIONS]
        return [*words, "-o", str(out), "--no-report", *options]

    def start(self, out: Path, *options: str, fault: Fault | None = None) -> Running:
        """Start a run; it goes on by itself.

        Args:
            out: output directory.
            options: of `predict`.
            fault: called in the run's process before the command.
        """
        self._number += 1
        log = self.folder / f"log-{self._number}.txt"
        environ = {"VIRNUCPRO_MODEL_DIR": str(self.home), "OMP_NUM_THREADS": "1"}
        arguments = self.command(out, *options)
        process = self._context.Process(target=run_command, args=(arguments, environ, log, fault))
        process.start()
        return Running(process, log)

    def finish(self, out: Path, *options: str, fault: Fault | None = None) -> Running:
        """Run to the end."""
        running = self.start(out, *options, fault=fault)
        running.process.join()
        return running


class Running:
    """A run under way, or what became of it."""

    def __init__(self, process: BaseProcess, log: Path) -> None:
        self.process, self._log = process, log
        self.pid: int = process.pid or 0

    @property
    def code(self) -> int | None:
        """Exit code; negative for a signal; None while it runs."""
        return self.process.exitcode

    @property
    def said(self) -> str:
        """What it wrote on standard output and standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.process.is_alive():
            os.kill(self.pid, number)

    def kill_after(self, seconds: float) -> bool:
        """Kill it at that time; False if it had ended before."""
        self.process.join(seconds)
        was_alive = self.process.is_alive()
        if was_alive:
            os.kill(self.pid, signal.SIGKILL)
        self.process.join()
        return was_alive


def run_command(
    arguments: Sequence[str], environ: Mapping[str, str], log: Path, fault: Fault | None = None
) -> None:
    """Be the command; runs in a forked process."""
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
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found: list[int] = []
    level = {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += level
    return found


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> bool:
    """Whether a condition comes true within that time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def entries(out: Path) -> dict[str, Path]:
    """Files of the ledger by the unit of work they speak of."""
    files = (out / ".checkpoints" / "ledger").glob("[!.]*.entry")
    return {json.loads(path.read_bytes().split(b"\n", 2)[1])["unit"]: path for path in files}


def units(out: Path) -> list[str]:
    """Units of work in the ledger."""
    return [*entries(out)]


def are_gone(pids: Sequence[int], seconds: float = 10.0) -> bool:
    """Whether all these processes end within that time."""
    return wait_for(lambda: not any(is_alive(pid) for pid in pids), seconds)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def results(out: Path) -> dict[str, bytes]:
    """Content of every file a run is made for, by name; not of run.json, which holds times."""
    names = ["calls.tsv", "chunks.tsv", "regions.tsv", "viral.fasta", "viral_regions.bed"]
    names += ["viral_chunks.bed", "viral.gff3"]
    names += [f"reads_merged/prediction_results{end}" for end in (".txt", "_highestscore.csv")]
    return {name: (out / name).read_bytes() for name in names}
