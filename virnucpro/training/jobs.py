"""What `train` and `evaluate` are to do: a training configuration (YAML), read and checked."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from virnucpro.core.config import build, read_yaml
from virnucpro.core.errors import ConfigError
from virnucpro.encoders.small_cpu import TowerConfig
from virnucpro.models.classifier_file import PUBLISHED_KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFiles:
    """FASTA to train, to choose and to measure on."""

    train: tuple[Path, ...] = ()
    dev: tuple[Path, ...] = ()  # to choose or to measure on, each of them a set
    table: Path | tuple[Path, ...] = ()  # TSV of id, class and group; none: `classes` says it
    classes: tuple[str, ...] = ()  # of each file without a table, those of `train` first

    @property
    def tables(self) -> tuple[Path, ...]:
        """All of `table`."""
        return self.table if isinstance(self.table, tuple) else (self.table,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate:
    """What else is measured."""

    leave_out: tuple[str, ...] = ()  # records to measure sets without, once more
    decoys: Path | None = None  # FASTA of what callers mistake for viruses, none of it viral
    decoy_kinds: Path | None = None  # TSV of id and kind of each

    def __post_init__(self) -> None:
        if (self.decoys is None) != (self.decoy_kinds is None):
            raise ValueError("decoys and decoy_kinds go together")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that a configuration says besides the recipe, under the names it has there."""

    name: str = "custom"  # of the model
    classifier: Literal["mini", "mlp"] = "mini"  # of the bundled kind, or as published
    data: LabelledFiles = field(default_factory=LabelledFiles)
    evaluate: Evaluate = field(default_factory=Evaluate)
    # of `mini`: families of each kind of virus, which are told apart; the rest is of unknown kind
    virus_kinds: dict[str, tuple[str, ...]] = field(default_factory=dict)
    start: Path | None = None  # of `mini`: model folder of its shape, to begin with the weights of
    model: str = "500"  # of `mlp`: whose encoders, chunk length and ORF policy are used
    chunk_nt: int = 500  # of `mini`: chunk length that the model is to be run with
    dev_count: int = 2_000  # of `mini`: windows of each dev set and length

    def __post_init__(self) -> None:
        if min(self.chunk_nt, self.dev_count) < 1:
            raise ValueError("chunk_nt and dev_count must be 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Sequencing errors and the like in training windows.

    Rates are per base, and uniform below the one that stands here; shares are of windows.
    """

    substitutions: float = 0.03
    substituted_share: float = 0.7
    indels: float = 0.01
    indel_share: float = 0.25
    unknown_share: float = 0.01  # with some bases read as N
    converted_share: float = 0.03  # with every C read as T, as bisulfite leaves them
    masked_share: float = 0.0  # with one to three runs of N, of up to half of the window
    adapter_share: float = 0.0  # running into adapters, which alone are then one of the null kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Windows of one step: `shortest` to `longest` nt, `batch` of them, with this `share`."""

    shortest: int
    longest: int
    batch: int
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or self.batch < 1:
            raise ValueError("needs a batch of 1 or more windows, shortest no more than longest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides the weights of a model of the bundled kind, besides the data."""

    dna: TowerConfig  # over the six codon frames
    protein: TowerConfig  # over the ORF's residues
    hidden: int = 256  # width of the classifier
    dropout: float = 0.1  # on the merged vector and the hidden features
    steps: int = 10_000
    buckets: tuple[Bucket, ...] = (  # window lengths; a step draws one bucket
        Bucket(shortest=150, longest=255, batch=8192, share=0.34),
        Bucket(shortest=256, longest=510, batch=4096, share=0.36),
        Bucket(shortest=511, longest=1020, batch=2048, share=0.30),
    )
    virus_share: float = 0.46  # of windows; the rest beside nulls is cellular
    null_share: float = 0.083
    kind_weights: dict[str, float] = field(default_factory=dict)  # over the square root of bases
    family_weights: dict[str, float] = field(default_factory=dict)  # likewise, of viruses
    noise: Noise = field(default_factory=Noise)
    decayed: tuple[str, ...] = ()  # viruses whose worn copies are the cellular class `insertion`
    null_bank_share: float = 1.0  # size of the bank of null sequences, over that of about 60 Mbp
    optimiser: Literal["adamw", "muon"] = "adamw"  # Muon for the inner matrices, AdamW else
    rate: float = 2e-3  # highest of AdamW; rates fall along a cosine
    muon_rate: float = 0.01
    decay: float = 0.02
    warmup: float = 0.03  # share of the steps over which the rates rise
    smoothing: float = 0.02  # of labels
    kind_loss: float = 0.2  # weight of the losses for group (family, class) and kind of virus
    distil: float = 0.0  # share of the first model's scores in what is learned, where there is no N
    ema: float = 0.999  # decay of the averaged weights, which are the ones kept
    seed: int = 0  # everything random follows from it
    evaluate_every: int = 1_000  # steps between two looks at the dev sets
    patience: int = 1_000  # steps without a better figure before training stops

    def __post_init__(self) -> None:
        if not self.buckets or sum(bucket.share for bucket in self.buckets) <= 0:
            raise ValueError("buckets must hold one or more with a share above 0")
        if min(self.hidden, self.steps, self.evaluate_every) < 1:
            raise ValueError("hidden, steps and evaluate_every must be 1 or more")
        if max(self.virus_share + self.null_share, self.dropout, self.smoothing, self.ema) > 1:
            names = "dropout, smoothing, ema, and virus_share with null_share"
            raise ValueError(f"{names} must be 1 or less")


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpRecipe:
    """Everything that decides the published classifier's weights, besides data and encoders."""

    windows: int = 20_000  # drawn of the viral and of the other training records, each
    dev_windows: int = 2_000  # the same of each held-out set
    null_share: float = 0.1  # random, shuffled and low-complexity ones, of `windows`, as `other`
    hidden: int = 512
    dropout: float = 0.5  # after the ReLU
    optimiser: Literal["sgd", "adamw"] = "adamw"  # SGD with momentum 0.9
    rate: float = 1e-3  # falls to 0 along a cosine
    decay: float = 0.01
    batch: int = 256  # rows of a step
    epochs: int = 40  # the most passes over the rows
    patience: int = 5  # passes without a better figure before training stops
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise ValueError("batch must be 2 or more: the network has a batch norm")
        if min(self.windows, self.dev_windows, self.hidden, self.epochs) < 1 or self.dropout > 1:
            names = "windows, dev_windows, hidden and epochs"
            raise ValueError(f"{names} must be 1 or more, dropout 1 or less")


def read_job(path: Path, data: Path | None) -> tuple[Job, Recipe | MlpRecipe]:
    """Read what to train, and the recipe; names under `data` are relative to its folder."""
    job, recipe = _read(path, data)
    kind: type[Recipe | MlpRecipe] = MlpRecipe if job.classifier == PUBLISHED_KIND else Recipe
    return job, build(kind, recipe, f"{path}: recipe")


def read_evaluation(path: Path, data: Path | None) -> Job:
    """Read what to measure, as `read_job`; no recipe is needed, but dev files and a table."""
    job, _ = _read(path, data)
    if not job.data.dev or not job.data.tables:
        raise ConfigError(f"{path}: data needs dev (a list of FASTA files) and table (a TSV)")
    return job


def _read(path: Path, data: Path | None) -> tuple[Job, Any]:
    said = read_yaml(path)
    recipe = said.pop("recipe", None) or {}
    return _under(data or path.parent, build(Job, said, str(path))), recipe


def _under(root: Path, value: Any) -> Any:
    """The same settings with all paths below a folder."""
    if isinstance(value, Path):
        return root / value
    if isinstance(value, tuple):
        return tuple(_under(root, one) for one in value)
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value)]
        return replace(value, **{name: _under(root, getattr(value, name)) for name in names})
    return value
