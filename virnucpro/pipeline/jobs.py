"""Work for embedding workers: which file, with which encoder, into which file. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from virnucpro.models.specs import EncoderSpec

EngineKind = Literal["padded", "packed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureJob:
    """Embed one split file.

    Attributes:
        encoder: weights and number format; kept loaded by the worker.
        input_file: FASTA of DNA or protein, as the encoder takes it.
        output_file: feature file in the published layout.
        rows: sequences in the input file.
        expected_tokens: of all files of the stage, about.
        engine: how batches are laid out.
        token_budget: token slots of a batch; None means by the device's free memory.
        dtype: numbers to compute with, as in `engines.base.choose_dtype`.
    """

    encoder: EncoderSpec
    input_file: Path
    output_file: Path
    rows: int
    engine: EngineKind = "padded"
    token_budget: int | None = None
    dtype: str = "float32"
    expected_tokens: int = 0

    @property
    def is_protein(self) -> bool:
        """Whether the encoder reads proteins."""
        return self.encoder.kind in ("esm2", "mini-protein")

    @property
    def label(self) -> str:
        """The encoder's name in `failed_files.txt`."""
        return "ESM-2" if self.is_protein else "DNABERT-S"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent by a worker that makes progress: vectors since the last one."""

    rows: int


@dataclass(frozen=True, slots=True)
class JobDone:
    """A job whose output lies under its final name.

    Attributes:
        rows: vectors in the file.
        loaded: names of the encoders that this worker holds.
        loads: how often it has loaded an encoder so far.
        cache_clears: how often it has given cached GPU memory back so far.
        tokens: tokens embedded.
        engine: how: layout, device, dtype, and attention backend.
    """

    rows: int
    loaded: tuple[str, ...]
    loads: int
    cache_clears: int
    tokens: int = 0
    engine: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A job that gave no output.

    Attributes:
        reason: one line.
        cause: set when no other file can fare better (no weights, no device).
    """

    reason: str
    cause: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """How a worker process runs.

    Attributes:
        device: `cpu` or `cuda:N`.
        threads: CPU threads, of arithmetic and of laying out batches; None leaves torch's choice.
        cache_clear_interval: jobs between two clearings of the GPU cache; 0 never.
        log_level: lowest level whose lines reach the parent.
        heartbeat_s: least time between two heartbeats (s).
    """

    device: str = "cpu"
    threads: int | None = None
    cache_clear_interval: int = 10
    log_level: int = 20
    heartbeat_s: float = 1.0
