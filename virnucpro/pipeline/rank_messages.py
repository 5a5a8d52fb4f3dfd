"""What the coordinator of a packed stage and its ranks say to each other; all picklable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.core.errors import VirNucProError
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.sequence_index import Places

if TYPE_CHECKING:
    from virnucpro.models.specs import EncoderSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RankJob:
    """What a rank needs to know before it gets shards.

    Attributes:
        encoder: what to load.
        device: where to compute, such as `cuda:2`.
        config: see `RuntimeConfig`.
        files: FASTA files that `Places` number.
        shard_dir: where shards are committed.
        log_dir: where `worker_{rank}.log` goes.
        attributes: written into each shard; `key` among them.
        expected_tokens: of the whole stage, about.
        longest: tokens of the longest sequence, about; never less.
        readers: processes that read and tokenise for this rank.
        cpu_threads: CPU threads of one rank, of arithmetic and of laying out batches.
    """

    encoder: EncoderSpec
    device: str
    config: RuntimeConfig
    files: tuple[Path, ...]
    shard_dir: Path
    log_dir: Path
    attributes: dict[str, str]
    expected_tokens: int
    longest: int
    readers: int
    cpu_threads: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """A shard to compute: its number and where its sequences lie."""

    shard: int
    places: Places


@dataclass(frozen=True, slots=True)
class Ready:
    """The rank has loaded its encoder; what its engine says about itself."""

    stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Beat:
    """A batch was finished."""

    sequences: int


@dataclass(frozen=True, slots=True)
class Done:
    """A shard was committed."""

    shard: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A shard could not be computed; `error` is set where the cause has a type."""

    shard: int
    reason: str
    error: VirNucProError | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """A shard that was not finished, and not for a fault of its own."""

    shard: int


@dataclass(frozen=True, slots=True)
class CannotStart:
    """The rank has no encoder or no device to work with."""

    reason: str
    error: VirNucProError | None = None


@dataclass(frozen=True, slots=True)
class Bye:
    """The rank ends in good order; what its engine did."""

    stats: dict[str, Any]


def shard_path(folder: Path, shard: int) -> Path:
    """The file of a shard."""
    return folder / f"shard_{shard:05d}.h5"
