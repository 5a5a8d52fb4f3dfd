"""The options that several commands take, and the frozen settings that flags become."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import option

from virnucpro.core.config import MODEL_TYPES, ORF_POLICIES, PRECISIONS, Config, parse_flag
from virnucpro.core.device import detect_cuda_devices
from virnucpro.core.errors import UsageError
from virnucpro.core.text import shown
from virnucpro.scores.thresholds import PRESETS

if TYPE_CHECKING:
    from virnucpro.pipeline.settings import PredictionSettings

LEAST = {"expected_length": 30, "min_length": 0, "sample_n": 1, "threads": 1}
AT_LEAST_0, AT_LEAST_1 = click.IntRange(min=0), click.IntRange(min=1)
flag = partial(option, is_flag=True)
TOKENS = click.IntRange(min=16)


class OutputFolder(click.Path):
    """A folder to write; `-` would make one of that name, where a pipe was meant."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse `-`, and object storage, which `plan` takes."""
        if "://" in str(value):
            self.fail("give a folder; runs of `virnucpro plan` may lie at a URL", param, ctx)
        if str(value) == "-":
            self.fail("several files are written: give a folder, not standard output", param, ctx)
        return super().convert(value, param, ctx)


PLACE = click.Path(path_type=Path)
INPUT = click.Path(path_type=Path, allow_dash=True, readable=False)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_OR_DASH = click.Path(dir_okay=False, path_type=Path, allow_dash=True)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = OutputFolder(path_type=Path)
NEW_FOLDER = OutputFolder(file_okay=False, path_type=Path)

model_type = option(
    "--model-type", "-m", type=click.Choice(MODEL_TYPES),
    help="Model: mini ships with the package (default); 300 and 500 are the published ones; "
    "custom is what --model-path gives.",
)  # fmt: skip
model_path = option(
    "--model-path", "-p", type=PLACE,
    help="A custom model: its folder, or the name that it was imported under.",
)  # fmt: skip
expected_length = option(
    "--expected-length", "-e", type=click.IntRange(min=LEAST["expected_length"]),
    help="Chunk length (nt); default: the model's (300 for -m 300, else 500).",
)  # fmt: skip
min_length = option("--min-length", type=AT_LEAST_0, help="Shortest record to score (nt).")
paired = flag("--paired", help="Take the inputs two by two for files of mates.")
interleaved = flag("--interleaved", help="Take the records of an input two by two for mates.")
reference = option("--reference", type=NEW_FILE, help="FASTA of CRAM inputs.")
device = option("--device", "-d", default="auto", help="auto, cpu, cuda, cuda:N or N.")
as_json = flag("--json", "as_json", help="Print JSON.")
# Flags that ask for the original's stages and files.
STAGED = ("staged", "parallel", "v1_fallback", "persistent_models", "merge_threads")


def build_settings(
    flags: Mapping[str, Any], config: Config, gpus: tuple[int, ...] = ()
) -> "PredictionSettings":
    """Flags, by name, over settings; a UsageError tells of flags that do not fit together."""
    from virnucpro.pipeline import settings  # numpy loads behind it: --help stays fast

    def of(flag: str, key: str) -> Any:
        value = flags.get(flag)
        return config[key] if value in (None, "") else value

    def given(*names: str) -> dict[str, Any]:
        return {name: flags[name] for name in names if flags.get(name) is not None}

    for name, least in LEAST.items():
        if (value := flags.get(name)) is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    words = {"precision": PRECISIONS, "orf_policy": ORF_POLICIES, "preset": PRESETS}
    for name, known in words.items():
        if (word := flags.get(name)) not in (None, *known):
            raise UsageError(f"{name} must be one of {', '.join(known)}, got {shown(word)}")
    precision, preset = flags.get("precision"), flags.get("preset")
    model_type = flags.get("model_type") or ("custom" if flags.get("model_path") else None)
    model_type = model_type or config["prediction.model_type"]
    model_path = of("model_path", "prediction.model_path")
    if model_type == "custom" and model_path is None:
        raise UsageError("-m custom needs --model-path")
    if flags.get("conservative") and flags.get("relaxed"):
        raise UsageError("--conservative and --relaxed exclude each other: give one of them")
    resume = bool(flags.get("resume") or flags.get("force_resume"))
    if resume and flags.get("force"):
        raise UsageError("--force starts over and --resume goes on: give one of them")
    keep_intermediate = of("keep_intermediate", "files.keep_intermediate")
    staged = any(flags.get(name) for name in STAGED) or keep_intermediate
    if staged and precision == "fp8":
        raise UsageError("--precision fp8 belongs to one stream: leave it or the stages out")
    device, on_ray = of("device", "device.name"), flags.get("executor") == "ray"
    if on_ray and (staged or precision == "fp8"):
        raise UsageError("--executor ray belongs to one stream, without stages and without fp8")
    if on_ray and (flags.get("gpus") or device not in ("auto", "cpu", "cuda")):
        problem = "--executor ray uses what the cluster has: --device cpu or cuda, no --gpus"
        raise UsageError(problem)
    if on_ray and device == "auto":
        device = "cuda" if detect_cuda_devices() else "cpu"
    preset = preset or next((name for name in PRESETS if flags.get(name)), None)
    calling = settings.Calling(preset=preset, **given("min_score", "max_fdr", "gzip_fasta"))
    try:
        _ = calling.thresholds
    except ValueError as error:
        raise UsageError(str(error)) from error
    return settings.PredictionSettings(
        model=settings.ModelChoice(
            model_type=model_type,
            model_path=model_path,
            home=model_home(config),
            chunk_nt=of("expected_length", "prediction.expected_length"),
            min_length=of("min_length", "prediction.min_length"),
            **given("orf_policy", "sample_n"),
        ),
        inputs=settings.Inputs(**given("paired", "interleaved", "reference")),
        compute=settings.Compute(
            device=device,
            elsewhere=on_ray,
            fallback_to_cpu=config["device.fallback_to_cpu"],
            gpus=gpus,
            dtype=precision or embedding_dtype(config),
            threads=of("threads", "prediction.threads"),
            classifier_batch=of("batch_size", "prediction.batch_size"),
            reader_threads=of("num_workers", "prediction.num_workers"),
            staged=staged,
            merge_workers=flags.get("merge_threads"),
            sequences_per_file=config["prediction.sequences_per_file"],
            dna_tokens=of("dnabert_batch_size", "features.dnabert.batch_size"),
            protein_tokens=of("esm_batch_size", "features.esm.toks_per_batch"),
            loader_workers=of("dataloader_workers", "features.dataloader_workers"),
            packing=not _switch("VIRNUCPRO_DISABLE_PACKING"),
            v1_attention=bool(flags.get("v1_attention")) or _switch("VIRNUCPRO_V1_ATTENTION"),
            worker_timeout=config["prediction.worker_timeout"],
            **given("ranks", "pin_memory", "dnabert_v2", "cache_clear_interval", "executor"),
            **given("ray_address", "ray_cpus"),
        ),
        calling=calling,
        output=settings.Output(
            keep_intermediate=keep_intermediate,
            resume=resume,
            repair=bool(flags.get("force_resume")),
            progress=config["progress.enabled"] and not flags.get("no_progress"),
            report=not flags.get("no_report"),
            **given("force"),
        ),
    )


def config_of(ctx: click.Context) -> Config:
    """The settings that `virnucpro --config` read, else those of the environment."""
    return ctx.ensure_object(dict).get("config") or Config.load(None, os.environ)


def model_home(config: Config) -> Path:
    """Where fetched and imported models lie; by default in the user's cache."""
    from virnucpro.pipeline.settings import default_home

    return config.get("models.home") or default_home()


def embedding_dtype(config: Config) -> str:
    """The numbers to embed with, by settings and environment."""
    return "float32" if _switch("VIRNUCPRO_DISABLE_FP16") else str(config.get("device.dtype"))


def _switch(name: str) -> bool:
    return parse_flag(os.environ.get(name, ""), name)
