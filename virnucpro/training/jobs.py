"""What `train` and `evaluate` are to do, read from a training configuration (YAML)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from virnucpro.core.config import read_yaml
from virnucpro.core.errors import ConfigError, UsageError
from virnucpro.scores.classifier import PUBLISHED_KIND
from virnucpro.training.labelled import LabelledFiles
from virnucpro.training.mlp import MlpRecipe
from virnucpro.training.plain import build
from virnucpro.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Training of a model of the bundled kind.

    Attributes:
        name: name of the model.
        recipe: what decides the weights.
        files: labelled FASTA.
        chunk_nt: chunk length that the model is to be run with.
        dev_count: windows of each dev set and length.
    """

    name: str
    recipe: Recipe
    files: LabelledFiles
    chunk_nt: int
    dev_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpJob:
    """Training of the published classifier.

    Attributes:
        name: name of the model.
        model: whose encoders, chunk length and ORF policy are used: `300`, `500`, `mini`, or
            the name or directory of a custom model.
        recipe: what decides the weights.
        files: labelled FASTA.
    """

    name: str
    model: str
    recipe: MlpRecipe
    files: LabelledFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateJob:
    """Measuring of a model.

    Attributes:
        files: labelled FASTA; the dev files are measured.
        leave_out: records without which sets are measured once more.
    """

    files: LabelledFiles
    leave_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evaluate:
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Configuration:
    """Everything that a training configuration may say."""

    name: str = "custom"
    classifier: Literal["mini", "mlp"] = "mini"
    model: str = "500"
    chunk_nt: int = 500
    dev_count: int = 2_000
    data: LabelledFiles = field(default_factory=LabelledFiles)
    evaluate: _Evaluate = field(default_factory=_Evaluate)
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.chunk_nt, self.dev_count) < 1:
            raise ValueError("chunk_nt and dev_count must be 1 or more")


def read_job(path: Path, data: Path | None, **overrides: int | None) -> TrainJob | MlpJob:
    """The training that a configuration describes: `classifier` tells which.

    Args:
        path: YAML with the mappings `data` (train, dev, table or classes) and `recipe`.
        data: folder that the names under `data` are relative to; None means the file's own.
        overrides: recipe settings to change; None changes nothing.

    Raises:
        ConfigError: no YAML, or a key that is unknown, missing or of another type.
        UsageError: steps for a training that has none.
    """
    given, where = _read(path, data), f"{path}: recipe"
    settings = given.recipe | {k: v for k, v in overrides.items() if v is not None}
    if given.classifier == PUBLISHED_KIND:
        if overrides.get("steps") is not None:
            raise UsageError("--steps is for the bundled kind; `classifier: mlp` counts epochs")
        recipe = build(MlpRecipe, settings, where)
        return MlpJob(name=given.name, model=given.model, recipe=recipe, files=given.data)
    return TrainJob(
        name=given.name,
        recipe=build(Recipe, settings, where),
        files=given.data,
        chunk_nt=given.chunk_nt,
        dev_count=given.dev_count,
    )


def read_evaluate_job(path: Path, data: Path | None) -> EvaluateJob:
    """The dev sets of a training configuration.

    Args:
        path: YAML with the mapping `data` (dev, table) and maybe `evaluate` (leave_out: ids).
        data: folder that the names under `data` are relative to; None means the file's own.

    Raises:
        ConfigError: as `read_job`, or there are no dev files or no table.
    """
    given = _read(path, data)
    if not given.data.dev or not given.data.table:
        raise ConfigError(f"{path}: data needs dev (a list of FASTA files) and table (a TSV)")
    return EvaluateJob(files=given.data, leave_out=frozenset(given.evaluate.leave_out))


def _read(path: Path, data: Path | None) -> _Configuration:
    given = build(_Configuration, read_yaml(path), str(path))
    return replace(given, data=given.data.under(data or path.parent))
