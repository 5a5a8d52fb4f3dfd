"""What `benchmark_peers.py` measures: the programs, how their tables read, the windows."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from virnucpro.training.corpus import draw_windows, load_corpus, read_labels, uniform
from virnucpro.training.evaluation import auroc, mcc

LENGTH_NT = 500
SETS = {
    "known": "dev_known_virus.fa.xz",
    "novel": "dev_novel_virus.fa.xz",
    "cellular": "dev_cellular.fa.xz",
}
LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
OURS = "VirNucPro predict"

Row = dict[str, str]
Scores = dict[str, tuple[float, bool]]


@dataclass(frozen=True, slots=True)
class Tool:
    """A program to measure.

    Attributes:
        name: as it stands in the tables.
        command: from input FASTA and output folder to the command line.
        pattern: of the table of calls in the output folder.
        score: of a row of that table: id, score (greater is more viral), called viral.
        packages: whose versions to note.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    pattern: str
    score: Callable[[Row], tuple[str, float, bool]]
    packages: tuple[str, ...]


def ours_row(row: Row) -> tuple[str, float, bool]:
    return row["id"], float(row["p_virus"] or "nan"), row["call"] == "virus"


def jaeger_row(row: Row) -> tuple[str, float, bool]:
    others = [float(row[n]) for n in row if n.endswith("_score") and n != "phage_score"]
    margin = float(row["phage_score"]) - max(others)
    return row["contig_id"], margin, row["prediction"].lower() in {"phage", "virus"}


def genomad_row(row: Row) -> tuple[str, float, bool]:
    virus, others = float(row["virus_score"]), (row["chromosome_score"], row["plasmid_score"])
    return row["seq_name"], virus, virus > max(map(float, others))


def deepmicroclass_row(row: Row) -> tuple[str, float, bool]:
    classes = {name: float(row[name]) for name in row if name[0].isupper() and " " not in name}
    viral = max(score for name, score in classes.items() if "Virus" in name)
    margin = viral - max(score for name, score in classes.items() if "Virus" not in name)
    return row["Sequence Name"], margin, margin > 0


def deep6_row(row: Row) -> tuple[str, float, bool]:
    viral = [float(row[name]) for name in ("duplo", "mono", "ribo", "vari")]
    cells = [float(row[name]) for name in ("euk", "pro")]
    return row["name"], sum(viral), max(viral) > max(cells)


def tools_of(options: argparse.Namespace) -> list[Tool]:
    """Ours, then the peers."""
    cores = str(options.cores)

    def ours(fasta: Path, out: Path) -> list[str]:
        command = [sys.executable, "-m", "virnucpro", "-q", "predict", str(fasta)]
        return [*command, "-o", str(out), "-d", "cpu", "-t", cores, "--no-progress"]

    def jaeger(fasta: Path, out: Path) -> list[str]:
        size = ["--fsize", str(LENGTH_NT), "--stride", str(LENGTH_NT)]
        command = [options.jaeger, "predict", "-i", str(fasta), "-o", str(out)]
        return [*command, "--cpu", "--workers", cores, *size, "-f"]

    def genomad(fasta: Path, out: Path) -> list[str]:
        command = [options.genomad, "nn-classification", str(fasta), str(out)]
        return [*command, "--threads", cores, "--batch-size", "64"]

    def deepmicroclass(fasta: Path, out: Path) -> list[str]:
        command = [options.deepmicroclass, "predict", "-i", str(fasta), "-o", str(out)]
        return [*command, "-d", "cpu", "-ct", cores]

    def deep6(fasta: Path, out: Path) -> list[str]:
        place = Path(options.deep6)
        script, models = place / "Master/deep6.py", place / "Models"
        python = str(Path(options.jaeger).with_name("python")) if options.deep6 else ""
        return [python, str(script), "-i", str(fasta), "-l", "250", "-m", str(models),
                "-o", str(out)]  # fmt: skip

    return [
        Tool(OURS, ours, "calls.tsv", ours_row, ("virnucpro", "torch")),
        Tool("Jaeger", jaeger, "*[0-9]_jaeger.tsv", jaeger_row, ("jaeger-bio", "tensorflow")),
        Tool(
            "geNomad nn-classification", genomad, "*_nn_classification.tsv", genomad_row,
            ("genomad", "tensorflow"),
        ),
        Tool(
            "DeepMicroClass", deepmicroclass, "*_hybrid.tsv", deepmicroclass_row,
            ("DeepMicroClass", "torch"),
        ),
        Tool("Deep6", deep6, "*_deep6.txt", deep6_row, ("tensorflow",)),
    ]  # fmt: skip


def draw_sequences(options: argparse.Namespace) -> dict[str, list[str]]:
    """Windows by set: half as many of each viral set as of the cellular one, and random DNA."""
    labels = read_labels(options.data / "meta.tsv.xz")
    drawn = {}
    for at, (name, file) in enumerate(SETS.items()):
        rng = np.random.default_rng([options.seed, at])
        count = options.windows // (2 if name == "cellular" else 4)
        corpus = load_corpus([(options.data / file, labels.get)])
        drawn[name] = draw_windows(corpus, name, LENGTH_NT, count, rng).bases
    rng = np.random.default_rng([options.seed, len(SETS)])
    drawn["random"] = uniform(rng, options.random, LENGTH_NT)
    return {
        name: [LETTERS[row].tobytes().decode() for row in bases] for name, bases in drawn.items()
    }


def write_fasta(path: Path, sets: Mapping[str, list[str]], share: float, seed: int) -> int:
    """Write a share of every set, mixed, and return how many; ids name set and window."""
    rows = [
        f">{name}_{number}\n{sequence}\n"
        for name, sequences in sets.items()
        for number, sequence in enumerate(sequences[: max(1, round(share * len(sequences)))])
    ]
    order = np.random.default_rng(seed).permutation(len(rows))
    path.write_text("".join(rows[i] for i in order))
    return len(rows)


def accuracy(tool: str, scores: Scores) -> dict[str, Any]:
    """Figures of merit; a window without a score ranks below all others."""
    names = list(scores)
    which = np.array([name.rpartition("_")[0] for name in names])
    score = np.nan_to_num(np.array([scores[n][0] for n in names]), nan=-1e9)
    called = np.array([scores[n][1] for n in names])
    cellular, real = which == "cellular", which != "random"

    def against_cells(name: str) -> float:
        kept = cellular | (which == name)
        return round(auroc(score[kept], which[kept] == name), 3)

    return {
        "tool": tool,
        "AUROC_known": against_cells("known"),
        "AUROC_novel": against_cells("novel"),
        "recall_known": round(float(called[which == "known"].mean()), 3),
        "recall_novel": round(float(called[which == "novel"].mean()), 3),
        "cellular_called_viral": round(float(called[cellular].mean()), 3),
        "random_called_viral": round(float(called[~real].mean()), 3),
        "MCC": round(mcc(called[real], ~cellular[real]), 3),
        "windows_scored": len(names),
    }


def read_scores(tool: Tool, folder: Path) -> Scores:
    """Score and call of every window in the tool's own table."""
    table = next(folder.rglob(tool.pattern), None)
    if table is None:
        raise ChildProcessError(f"wrote no {tool.pattern}")
    with table.open() as file:
        rows = map(tool.score, csv.DictReader(file, delimiter="\t"))
        return {name: (score, called) for name, score, called in rows}
