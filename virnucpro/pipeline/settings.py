"""What one prediction is asked to do; the frozen form of the command line."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from virnucpro.core.config import PolicyName
from virnucpro.core.device import device_name
from virnucpro.scores.thresholds import PRESETS, PresetName, Thresholds


def default_home() -> Path:
    """Where models lie by default: in the user's cache."""
    try:
        return Path("~/.cache/virnucpro/models").expanduser()
    except RuntimeError:
        return Path(os.devnull, "no home directory, set VIRNUCPRO_MODEL_DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChoice:
    """What decides scores; None means the model's own, or all."""

    model_type: str = "mini"  # or 300, 500, custom
    model_path: Path | None = None  # directory or file of a custom model
    home: Path = field(default_factory=default_home)  # of fetched and imported models
    chunk_nt: int | None = None
    orf_policy: PolicyName | None = None
    min_length: int = 0  # shorter records are reported, not scored (nt)
    sample_n: int | None = None  # score at most this many records, evenly spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How to compute; None means what fits the machine, the model or free memory."""

    device: str = "auto"  # or cpu, cuda, cuda:N, N
    fallback_to_cpu: bool = False  # where the named GPU is missing
    gpus: tuple[int, ...] = ()  # in order; empty means `device`
    ranks: int | None = None  # processes of the packed engine
    dtype: str = "auto"  # or float32, float16, bfloat16; or fp8, which a sample must allow
    threads: int | None = None  # CPU threads of all processes together
    classifier_batch: int = 256  # rows
    reader_threads: int = 4  # read merged files ahead of the classifier; 0 reads in line
    staged: bool = False  # through the original's stages and files
    merge_workers: int | None = None  # processes
    sequences_per_file: int | None = None  # ORFs of a split file, the unit of work
    dna_tokens: int | None = None  # of a batch
    protein_tokens: int | None = None
    loader_workers: int | None = None  # threads that tokenise in a rank of the packed engine
    pin_memory: bool | None = None  # page-locked batches
    packing: bool = True  # False falls back to padded batches
    dnabert_v2: bool = False  # DNA through the packed engine too
    v1_attention: bool = False  # plain SDPA in the packed engine
    cache_clear_interval: int = 100  # split files between two clearings of the GPU cache; 0 never
    worker_timeout: float = 900.0  # silence after which a busy worker counts as hung (s)
    executor: Literal["local", "ray"] = "local"  # or ray: workers on a Ray cluster
    ray_address: str | None = None  # None: of the environment, else a cluster of this host alone
    ray_cpus: int = 1  # of a worker on Ray that has no GPU
    elsewhere: bool = False  # `device` is cpu or cuda, of other hosts, and not looked for here

    @property
    def devices(self) -> tuple[str, ...]:
        """The GPUs that were named, else the one device; a DeviceError if it is not there."""
        if self.elsewhere:
            return (self.device,)
        named = tuple(f"cuda:{number}" for number in self.gpus)
        return named or (device_name(self.device, self.fallback_to_cpu),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What happens to files."""

    keep_intermediate: bool = False  # chunk, ORF and feature files
    resume: bool = False  # go on with finished work whose input and settings are unchanged
    repair: bool = False  # make again what fails its checksum; False makes damage an error
    force: bool = False  # remove what an earlier run left and start over
    progress: bool = True
    report: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How input files are read."""

    paired: bool = False  # two consecutive files are files of mates
    interleaved: bool = False  # two consecutive records are mates
    reference: Path | None = None  # FASTA that CRAM files were packed against


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """What changes calls and final tables, never a score; None means the preset's."""

    preset: PresetName | None = None  # None leaves the call to the model
    min_score: float | None = None  # least p_virus of a virus
    max_fdr: float | None = None  # greatest fdr of a virus
    gzip_fasta: bool = False  # viral.fasta.gz and regions.fasta.gz in place of plain ones

    @property
    def thresholds(self) -> Thresholds:
        """The preset, with what was given by number in place of its own."""
        base = PRESETS[self.preset] if self.preset else Thresholds()
        score = base.min_score if self.min_score is None else self.min_score
        fdr = base.max_fdr if self.max_fdr is None else self.max_fdr
        return replace(base, min_score=score, max_fdr=fdr)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSettings:
    """The whole of it; see the parts."""

    model: ModelChoice = field(default_factory=ModelChoice)
    inputs: Inputs = field(default_factory=Inputs)
    compute: Compute = field(default_factory=Compute)
    calling: Calling = field(default_factory=Calling)
    output: Output = field(default_factory=Output)
