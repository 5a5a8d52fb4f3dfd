"""What `train` and `evaluate` are to do: a training configuration (YAML), read and checked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from virnucpro.core.config import read_yaml
from virnucpro.core.errors import ConfigError
from virnucpro.models.classifier_file import PUBLISHED_KIND
from virnucpro.training.labelled import LabelledFiles
from virnucpro.training.mlp import MlpRecipe
from virnucpro.training.plain import build
from virnucpro.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """What else is measured: `leave_out` names records to measure sets without, once more."""

    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that a configuration says besides the recipe, under the names it has there.

    Attributes:
        name: name of the model.
        classifier: `mini` trains a model of the bundled kind, `mlp` the published classifier.
        data: labelled FASTA.
        evaluate: what else is measured.
        model: for `mlp`, whose encoders, chunk length and ORF policy are used: `300`, `500`,
            `mini`, or the name or directory of a custom model.
        chunk_nt: for `mini`, chunk length that the model is to be run with.
        dev_count: for `mini`, windows of each dev set and length.
    """

    name: str = "custom"
    classifier: Literal["mini", "mlp"] = "mini"
    data: LabelledFiles = field(default_factory=LabelledFiles)
    evaluate: Evaluate = field(default_factory=Evaluate)
    model: str = "500"
    chunk_nt: int = 500
    dev_count: int = 2_000

    def __post_init__(self) -> None:
        if min(self.chunk_nt, self.dev_count) < 1:
            raise ValueError("chunk_nt and dev_count must be 1 or more")


def read_job(path: Path, data: Path | None) -> tuple[Job, Recipe | MlpRecipe]:
    """Read what to train, and the recipe that decides the weights.

    Args:
        path: the YAML file.
        data: folder that the names under `data` are relative to; None means the file's own.

    Raises:
        ConfigError: no YAML, or a key that is unknown, missing or of another type.
    """
    job, recipe = _read(path, data)
    where = f"{path}: recipe"
    if job.classifier == PUBLISHED_KIND:
        return job, build(MlpRecipe, recipe, where)
    return job, build(Recipe, recipe, where)


def read_evaluation(path: Path, data: Path | None) -> Job:
    """Read what to measure; `path` and `data` as in `read_job`, and no recipe is needed.

    Raises:
        ConfigError: as `read_job`, or there are no dev files or no table.
    """
    job, _ = _read(path, data)
    if not job.data.dev or not job.data.table:
        raise ConfigError(f"{path}: data needs dev (a list of FASTA files) and table (a TSV)")
    return job


def _read(path: Path, data: Path | None) -> tuple[Job, Any]:
    said = read_yaml(path)
    recipe = said.pop("recipe", None) or {}
    job = build(Job, said, str(path))
    return replace(job, data=job.data.under(data or path.parent)), recipe
