"""Predictions in this process on tiny models, through `run_prediction`."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from virnucpro.pipeline.prediction import run_prediction
from virnucpro.pipeline.settings import Compute, ModelChoice, Output, PredictionSettings

TABLES = ("calls.tsv", "chunks.tsv", "in_merged/prediction_results.txt",
          "in_merged/prediction_results_highestscore.csv")  # fmt: skip


def write_dna(path: Path, lengths: Sequence[int]) -> Path:
    """A FASTA of random records `r0`, `r1` and on."""
    texts = ["".join(random.Random(i).choices("ACGT", k=n)) for i, n in enumerate(lengths)]
    path.write_text("".join(f">r{i}\n{text}\n" for i, text in enumerate(texts)))
    return path


def predict_here(
    home: Path, fasta: Path, out: Path, *, output: dict[str, Any] | None = None,
    policy: str = "longest", how: dict[str, Any] | None = None, **compute: Any,
) -> int:  # fmt: skip
    """Exit code of a run on the CPU with units of 8 ORFs.

    Args:
        output: fields of `Output`.
        how: arguments of `run_prediction`.
        compute: fields of `Compute`.
    """
    settings = PredictionSettings(
        model=ModelChoice(model_type="500", home=home, orf_policy=policy),
        compute=Compute(**{"device": "cpu", "threads": 1, "sequences_per_file": 8} | compute),
        output=Output(**{"progress": False, "report": False} | (output or {})),
    )
    return run_prediction([fasta], out, settings, **how or {})


def tables(out: Path) -> dict[str, bytes]:
    """Content of the tables of a run."""
    return {name: (out / name).read_bytes() for name in TABLES}


def calls(out: Path) -> dict[str, dict[str, str]]:
    """Rows of calls.tsv by id."""
    with (out / "calls.tsv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file, delimiter="\t")}


def facts(out: Path) -> dict[str, Any]:
    """What run.json says."""
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found
