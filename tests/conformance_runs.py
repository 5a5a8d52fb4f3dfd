"""Real runs on tiny models whose output and files the rows of the conformance list look at."""

from __future__ import annotations

import csv
import json
import multiprocessing
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import stand_ins
from click.testing import CliRunner
from tiny_home import make_tiny_home

from virnucpro.cli.main import cli
from virnucpro.pipeline import prediction

RECORDS = 6  # each is a unit of work
ONE_FRAME = "ATGCTAACCGCTAACTTACTTACCGCTTAC"  # the five other frames have stop codons in it
CODONS = ["ATG", "GCC", "AAG", "GTT", "CTG", "TCA", "CCA", "GAT"]


def worker(function):
    return lambda: patch("virnucpro.pipeline.workers.worker_main", function)


def every_line_of_progress():
    return patch("virnucpro.core.progress.SECONDS_BETWEEN_LINES", 0.0)


@dataclass(frozen=True)
class Asked:
    """A run: options, the exit code they end with, and what goes wrong."""

    options: str
    code: int = 0
    fault: Callable[[], AbstractContextManager[object]] = nullcontext


PACKED, KEPT = "--parallel --ranks 1 --no-progress", "--persistent-models -t 1"
RUNS = {
    "default": Asked("--no-progress"),
    "merge-threads": Asked("--merge-threads 2 --no-progress"),
    "parallel": Asked(PACKED),
    "fallback": Asked("--parallel --v1-fallback -t 1 --no-progress"),
    "persistent": Asked(KEPT, fault=every_line_of_progress),
    "persistent, disk full": Asked(
        f"{KEPT} --no-progress", 1, worker(stand_ins.worker_without_a_disk)
    ),
    "a shard kills its ranks": Asked(PACKED, 1, worker(stand_ins.worker_killed_by_one_unit)),
    "every rank dies": Asked(PACKED, 1, worker(stand_ins.worker_that_dies_with_work)),
    "every shard fails": Asked(PACKED, 1, worker(stand_ins.worker_that_fails_every_unit)),
}


@dataclass
class Runs:
    """`runs(name)` is what a run of `RUNS` printed; each is done once, when first asked for.

    Attributes:
        left: by run, names of the processes that were left when it had ended.
        packed: by run, the arguments of each call of the packed engine.
    """

    root: Path
    left: dict[str, list[str]] = field(default_factory=dict)
    packed: dict[str, list[dict]] = field(default_factory=dict)
    _printed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = make_tiny_home(self.root / "home")
        self.fasta = self.root / "in.fa"
        texts = ["".join(random.Random(i).choices(CODONS, k=60 + i)) for i in range(RECORDS)]
        records = (f">c{i}\n{ONE_FRAME}{text}\n" for i, text in enumerate(texts))
        self.fasta.write_text("".join(records))

    def __call__(self, name: str) -> str:
        if name not in self._printed:
            asked = RUNS[name]
            environment = {
                "VIRNUCPRO_MODEL_DIR": str(self.home),
                "VIRNUCPRO_PREDICTION_SEQUENCES_PER_FILE": "1",
            }
            words = ["predict", str(self.fasta), "-m", "500", "-o", str(self.out(name))]
            words += [*asked.options.split(), "--no-report"]
            engine = "run_multi_gpu_inference"
            seen = patch.object(prediction, engine, wraps=getattr(prediction, engine))
            with asked.fault(), seen as calls:
                done = CliRunner().invoke(cli, words, env=environment)
            assert done.exit_code == asked.code, done.output
            self._printed[name] = done.output
            self.packed[name] = [call.kwargs for call in calls.call_args_list]
            self.left[name] = [child.name for child in multiprocessing.active_children()]
        return self._printed[name]

    def out(self, name: str) -> Path:
        """Its output directory."""
        return self.root / name.replace(", ", "-").replace(" ", "-")

    def record(self, name: str) -> dict:
        """Its run.json."""
        self(name)
        return json.loads((self.out(name) / "run.json").read_text())

    def rows(self, name: str) -> list[dict[str, str]]:
        """Rows of its calls.tsv."""
        self(name)
        with (self.out(name) / "calls.tsv").open(newline="") as file:
            return list(csv.DictReader(file, delimiter="\t"))
