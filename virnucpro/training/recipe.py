"""What decides the weights that training yields: one frozen recipe, read from YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from virnucpro.core.errors import ConfigError
from virnucpro.core.files import digest_of
from virnucpro.models.tower_blocks import TowerConfig
from virnucpro.training.sampler import Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Windows of one step: `shortest` to `longest` nt, `batch` of them, with this `share`."""

    shortest: int
    longest: int
    batch: int
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights, besides the data.

    Attributes:
        dna: tower over the six codon frames.
        protein: tower over the ORF's residues.
        hidden: hidden width of the classifier.
        dropout: on the merged vector and the hidden features.
        steps: optimiser steps.
        buckets: window lengths; a step draws one bucket.
        virus_share: share of viral windows; `null_share` of null ones; the rest is cellular.
        kind_weights: weight of a cellular class over the square root of its bases.
        family_weights: likewise for virus families, by name.
        noise: errors put into the windows.
        optimiser: "adamw" or "muon" (Muon for the inner matrices, AdamW for the rest).
        rate: highest learning rate of AdamW; `muon_rate` of Muon; both fall along a cosine.
        decay: weight decay.
        warmup: share of the steps over which the rates rise.
        smoothing: label smoothing.
        kind_loss: weight of the loss for the group (family, class) of a window.
        ema: decay of the averaged weights, which are the ones kept.
        seed: everything random follows from it.
        evaluate_every: steps between two looks at the dev sets.
        patience: looks without a better figure before training stops.
    """

    dna: TowerConfig
    protein: TowerConfig
    hidden: int = 256
    dropout: float = 0.1
    steps: int = 10_000
    buckets: tuple[Bucket, ...] = (
        Bucket(shortest=150, longest=255, batch=8192, share=0.34),
        Bucket(shortest=256, longest=510, batch=4096, share=0.36),
        Bucket(shortest=511, longest=1020, batch=2048, share=0.30),
    )
    virus_share: float = 0.46
    null_share: float = 0.083
    kind_weights: dict[str, float] = field(default_factory=dict)
    family_weights: dict[str, float] = field(default_factory=dict)
    noise: Noise = field(default_factory=Noise)
    null_bank_share: float = 1.0
    optimiser: str = "adamw"
    rate: float = 2e-3
    muon_rate: float = 0.01
    decay: float = 0.02
    warmup: float = 0.03
    smoothing: float = 0.02
    kind_loss: float = 0.2
    ema: float = 0.999
    seed: int = 0
    evaluate_every: int = 1_000
    patience: int = 1_000

    @property
    def digest(self) -> str:
        """Identity of the recipe (hex)."""
        return digest_of(asdict(self))


_NESTED = {"dna": TowerConfig, "protein": TowerConfig, "noise": Noise}


def read_recipe(path: Path, **overrides: Any) -> Recipe:
    """Read the `recipe` mapping of a YAML file.

    Raises:
        ConfigError: not a mapping, or a key or value that a recipe does not know.
    """
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw = loaded.get("recipe") if isinstance(loaded, dict) else None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: needs a mapping named recipe")
    return recipe_from(raw | overrides)


def recipe_from(raw: dict[str, Any]) -> Recipe:
    """Build a recipe from plain values.

    Raises:
        ConfigError: a key or value that a recipe does not know.
    """
    values: dict[str, Any] = dict(raw)
    unknown = sorted(set(values) - {f.name for f in fields(Recipe)})
    if unknown:
        raise ConfigError(f"a recipe has no setting named {', '.join(unknown)}")
    try:
        for name, kind in _NESTED.items():
            if isinstance(values.get(name), dict):
                values[name] = kind(**_frozen(values[name]))
        if "buckets" in values:
            values["buckets"] = tuple(Bucket(**b) for b in values["buckets"])
        return Recipe(**values)
    except TypeError as error:
        raise ConfigError(f"recipe: {error}") from error


def _frozen(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
