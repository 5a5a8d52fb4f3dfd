"""What one prediction is asked to do; the frozen form of the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.core.device import device_name
from virnucpro.scores.thresholds import PresetName, Thresholds, thresholds
from virnucpro.sequences.orfs import PolicyName


def default_home() -> Path:
    """Where models lie by default: in the user's cache.

    A user without a home directory has none: the path says so, and can be neither found nor made.
    """
    try:
        return Path("~/.cache/virnucpro/models").expanduser()
    except RuntimeError:
        return Path(os.devnull, "no home directory, set VIRNUCPRO_MODEL_DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What decides scores.

    Attributes:
        model_type: `mini`, `300`, `500` or `custom`.
        model_path: directory or file of a custom model.
        home: where fetched and imported models lie.
        chunk_nt: chunk length (nt); None means the model's own.
        orf_policy: `open-frame` or `longest`; None means the model's own.
        min_length: shorter records are reported, not scored (nt).
        sample_n: score at most this many records, evenly spread; None means all.
    """

    model_type: str = "mini"
    model_path: Path | None = None
    home: Path = field(default_factory=default_home)
    chunk_nt: int | None = None
    orf_policy: PolicyName | None = None
    min_length: int = 0
    sample_n: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How to compute: time and memory, never a score beyond the stated tolerance.

    Attributes:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `N`.
        fallback_to_cpu: use the CPU where the named GPU is missing.
        gpus: devices to use, in order; empty means `device`.
        ranks: processes of the packed engine; None means one per GPU, else 1.
        dtype: `auto`, `float32`, `float16`, `bfloat16`, or `fp8`, which a sample must allow.
        threads: CPU threads of all processes together; None means the CPUs it may use.
        classifier_batch: rows per classifier batch.
        reader_threads: threads that read merged files ahead of the classifier; 0 reads in line.
        staged: go through the original's stages and files.
        merge_workers: processes that merge feature files; None means what helps.
        sequences_per_file: ORFs per split file, the unit of work; None means by model.
        dna_tokens: DNA tokens per batch; None means by memory.
        protein_tokens: protein tokens per batch; None means by memory.
        loader_workers: threads that tokenise in a rank of the packed engine; None means one.
        pin_memory: page-locked batches; None means on CUDA.
        packing: False falls back to padded batches.
        dnabert_v2: send DNA through the packed engine too.
        v1_attention: plain SDPA attention in the packed engine.
        cache_clear_interval: split files between two clearings of the GPU cache; 0 never.
        worker_timeout: silence after which a busy worker counts as hung (s).
    """

    device: str = "auto"
    fallback_to_cpu: bool = False
    gpus: tuple[int, ...] = ()
    ranks: int | None = None
    dtype: str = "auto"
    threads: int | None = None
    classifier_batch: int = 256
    reader_threads: int = 4
    staged: bool = False
    merge_workers: int | None = None
    sequences_per_file: int | None = None
    dna_tokens: int | None = None
    protein_tokens: int | None = None
    loader_workers: int | None = None
    pin_memory: bool | None = None
    packing: bool = True
    dnabert_v2: bool = False
    v1_attention: bool = False
    cache_clear_interval: int = 100
    worker_timeout: float = 900.0

    @property
    def devices(self) -> tuple[str, ...]:
        """Where to compute: the GPUs that were named, else the one device.

        Raises:
            DeviceError: it is not there.
        """
        named = tuple(f"cuda:{number}" for number in self.gpus)
        return named or (device_name(self.device, self.fallback_to_cpu),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What happens to files.

    Attributes:
        keep_intermediate: keep chunk, ORF and feature files.
        resume: go on with finished work whose input and settings are unchanged.
        repair: make again what fails its checksum; False makes damage an error.
        force: remove what an earlier run left and start over.
        progress: show progress.
        report: write report.html.
    """

    keep_intermediate: bool = False
    resume: bool = False
    repair: bool = False
    force: bool = False
    progress: bool = True
    report: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How input files are read.

    Attributes:
        paired: take two consecutive files for files of mates.
        reference: FASTA that CRAM files were packed against.
    """

    paired: bool = False
    reference: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """What changes calls and final tables, never a score.

    Attributes:
        preset: thresholds by name; None leaves the call to the model.
        min_score: least p_virus of a virus; None means the preset's.
        max_fdr: greatest fdr of a virus; None means the preset's.
        gzip_fasta: write viral.fasta.gz in place of viral.fasta.
    """

    preset: PresetName | None = None
    min_score: float | None = None
    max_fdr: float | None = None
    gzip_fasta: bool = False

    @property
    def thresholds(self) -> Thresholds:
        """The preset, with what was given by number in place of its own."""
        return thresholds(self.preset, self.min_score, self.max_fdr)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSettings:
    """The whole of it; see the parts."""

    model: ModelChoice = field(default_factory=ModelChoice)
    inputs: Inputs = field(default_factory=Inputs)
    compute: Compute = field(default_factory=Compute)
    calling: Calling = field(default_factory=Calling)
    output: Output = field(default_factory=Output)
