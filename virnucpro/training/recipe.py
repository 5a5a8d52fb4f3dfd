"""What decides the weights that training yields: one frozen recipe, read from YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from virnucpro.core.files import digest_of
from virnucpro.encoders.small import TowerConfig
from virnucpro.training.sampler import Noise


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Windows of one step: `shortest` to `longest` nt, `batch` of them, with this `share`."""

    shortest: int
    longest: int
    batch: int
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or self.batch < 1:
            raise ValueError(
                "needs a batch of 1 or more windows, and shortest no more than longest"
            )


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
        patience: steps without a better figure before training stops.
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
    optimiser: Literal["adamw", "muon"] = "adamw"
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

    def __post_init__(self) -> None:
        if not self.buckets or sum(bucket.share for bucket in self.buckets) <= 0:
            raise ValueError("buckets must hold one or more with a share above 0")
        if min(self.hidden, self.steps, self.evaluate_every) < 1:
            raise ValueError("hidden, steps and evaluate_every must be 1 or more")
        if min(min(tower.width, *tower.dilations) for tower in (self.dna, self.protein)) < 1:
            raise ValueError("width and dilations of dna and protein must be 1 or more")
        if max(self.virus_share + self.null_share, self.dropout, self.smoothing, self.ema) > 1:
            raise ValueError(
                "dropout, smoothing, ema, and virus_share with null_share must be 1 or less"
            )

    @property
    def digest(self) -> str:
        """Identity of the recipe (hex)."""
        return digest_of(asdict(self))
