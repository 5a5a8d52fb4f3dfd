"""From labelled FASTA to a report on a model: the steps of `virnucpro evaluate`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from virnucpro.core.errors import ConfigError, InputError
from virnucpro.core.progress import ProgressReporter
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.training.corpus import (
    NULL,
    OTHER,
    VIRUS,
    Corpus,
    Label,
    load_corpus,
    read_labels,
    read_sequences,
)
from virnucpro.training.evaluation_report import Report
from virnucpro.training.figures import curves_of, rows_of
from virnucpro.training.scoring import score_records, score_windows, split_by_target
from virnucpro.training.windows import dev_windows

logger = logging.getLogger("virnucpro.training")

DEFAULT_LENGTHS = (150, 300, 500, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Labelled sequences.

    Attributes:
        files: FASTA files, each of them a set.
        table: TSV of id, class and group; None means that `classes` says what a file holds.
        classes: class of each file without a table: `virus`, `null` or any other.
        leave_out: records without which sets are measured once more.
    """

    files: tuple[Path, ...]
    table: Path | None = None
    classes: tuple[str, ...] = ()
    leave_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """How windows are drawn.

    Attributes:
        lengths: of the windows (nt).
        count: windows of each set and length.
        null_count: random, shuffled and low-complexity windows of each length, as many of each.
        seed: everything follows from it.
    """

    lengths: tuple[int, ...] = DEFAULT_LENGTHS
    count: int = 2_000
    null_count: int = 500
    seed: int = 0


def read_inputs(path: Path, data: Path | None) -> Inputs:
    """The dev sets of a training configuration.

    Args:
        path: YAML with the mapping `data` (dev, table) and maybe `evaluate` (leave_out: ids).
        data: folder that the names under `data` are relative to; None means the file's own.

    Raises:
        ConfigError: there are no dev files or no table.
    """
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    files = loaded.get("data") if isinstance(loaded, dict) else None
    if not isinstance(files, dict) or not files.get("dev") or not files.get("table"):
        raise ConfigError(f"{path}: needs a mapping named data with dev files and a table")
    root = data or path.parent
    return Inputs(
        files=tuple(root / name for name in files["dev"]),
        table=root / files["table"],
        leave_out=frozenset((loaded.get("evaluate") or {}).get("leave_out", ())),
    )


def load_inputs(inputs: Inputs) -> dict[str, Corpus]:
    """Sets by name.

    Raises:
        InputError: unreadable sequences or labels, or records without a label.
        ConfigError: no table, and not one class a file.
    """
    if inputs.table is None and len(inputs.classes) != len(inputs.files):
        raise ConfigError("give a table of labels, or a class for each file")
    labels = read_labels(inputs.table) if inputs.table else {}
    sets: dict[str, Corpus] = {}
    for number, path in enumerate(inputs.files):
        name = stem = path.name.split(".")[0]
        while name in sets:
            name = f"{stem} {number + 1}"
        own = labels if inputs.table else _labels_of_class(path, inputs.classes[number])
        sets[name] = load_corpus([path], own)
    return sets


def _labels_of_class(path: Path, kind: str) -> dict[str, Label]:
    label = Label({"virus": VIRUS, "null": NULL}.get(kind, OTHER), kind, kind)
    return {seq_id: label for seq_id, _ in read_sequences(path)}


def evaluate(
    scorer: DirectScorer, inputs: Inputs, drawing: Drawing | None, progress: ProgressReporter
) -> Report:
    """Score labelled sequences and measure the scores.

    Args:
        scorer: the model.
        inputs: labelled sequences.
        drawing: how windows are drawn from them; None scores whole records.
        progress: shows how far it is.

    Raises:
        InputError: unreadable input, or no set has a sequence that is long enough.
        ConfigError: no labels.
    """
    sets = load_inputs(inputs)
    start = time.monotonic()
    if drawing is None:
        scored = score_records(scorer, sets, progress)
    else:
        drawn = dev_windows(
            split_by_target(sets), drawing.lengths, drawing.count, drawing.null_count, drawing.seed
        )
        scored = score_windows(scorer, drawn, progress)
    if not sum(len(s.labels) for s in scored):
        raise InputError(str(inputs.files[0]), "no record is as long as the windows")
    seconds = time.monotonic() - start
    count = sum(len(s.labels) for s in scored)
    logger.info("scored %d sequences in %.1f s", count, seconds)
    return Report(
        facts=_facts(scorer, inputs, drawing, count, seconds),
        rows=rows_of(scored, inputs.leave_out),
        curves=curves_of(scored),
    )


def _facts(
    scorer: DirectScorer, inputs: Inputs, drawing: Drawing | None, count: int, seconds: float
) -> dict[str, Any]:
    model = scorer.model
    return {
        "model": model.name,
        "model_digest": model.digest,
        "chunk_nt": model.chunk_nt,
        "files": [path.name for path in inputs.files],
        "windows": None
        if drawing is None
        else {
            "lengths": list(drawing.lengths),
            "count": drawing.count,
            "null_count": drawing.null_count,
            "seed": drawing.seed,
        },
        "left_out": sorted(inputs.leave_out),
        "sequences": count,
        "seconds": round(seconds, 1),
    }
