"""Flags, environment and settings file -> the frozen settings of a prediction.

Shared by `virnucpro predict` and `virnucpro.predict`: an absent flag falls back to the setting
of the same name, and that to its default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from virnucpro.core.config import Config, parse_flag
from virnucpro.core.errors import UsageError
from virnucpro.pipeline.settings import (
    Calling,
    Compute,
    Inputs,
    ModelChoice,
    Output,
    PredictionSettings,
    default_home,
)
from virnucpro.scores.thresholds import PRESETS
from virnucpro.sequences.orfs import PolicyName

Flags = Mapping[str, Any]

LEAST = {"expected_length": 30, "min_length": 0, "sample_n": 1, "threads": 1}
ORF_POLICIES: tuple[str, ...] = get_args(PolicyName)


def build_settings(
    flags: Flags,
    config: Config,
    gpus: tuple[int, ...] = (),
    resume: bool = False,
    repair: bool = False,
) -> PredictionSettings:
    """Lay flags over settings.

    Args:
        flags: values by the name of the flag; None, or no entry, where it was not given.
        config: the settings in force.
        gpus: devices to use; empty leaves it to the `device` flag.
        resume: go on with finished work.
        repair: make again what fails its checksum.

    Raises:
        UsageError: a value is out of range, or flags do not fit together.
    """
    for name, least in LEAST.items():
        if (value := flags.get(name)) is not None and value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    if (policy := flags.get("orf_policy")) not in (None, *ORF_POLICIES):
        raise UsageError(f"orf_policy must be one of {', '.join(ORF_POLICIES)}, got {policy!r}")
    return PredictionSettings(
        model=_model_choice(flags, config),
        inputs=Inputs(paired=bool(flags.get("paired")), reference=flags.get("reference")),
        compute=_compute(flags, config, gpus),
        calling=_calling(flags),
        output=_output(flags, config, resume, repair),
    )


def environment_config() -> Config:
    """The settings that the environment gives, over the defaults."""
    return Config.load(None, os.environ)


def model_home(config: Config) -> Path:
    """Where fetched and imported models lie; by default in the user's cache."""
    home: Path | None = config.get("models.home")
    return default_home() if home is None else home


def embedding_dtype(config: Config) -> str:
    """The numbers to embed with, by settings and environment."""
    disabled = _switch("VIRNUCPRO_DISABLE_FP16")
    return "float32" if disabled else str(config.get("device.dtype"))


def runtime_options(compute: Compute) -> dict[str, Any]:
    """Fields of `RuntimeConfig` that follow from the settings."""
    return {
        "dtype": compute.dtype,
        "dataloader_workers": compute.loader_workers,
        "pin_memory": compute.pin_memory,
        "disable_packing": not compute.packing,
        "v1_attention": compute.v1_attention,
        "devices": compute.devices,
        "worker_timeout": compute.worker_timeout,
    }


def _model_choice(flags: Flags, config: Config) -> ModelChoice:
    by_path = "custom" if flags.get("model_path") else None
    model_type = flags.get("model_type") or by_path or config.get("prediction.model_type")
    model_path = flags.get("model_path") or config.get("prediction.model_path")
    if model_type == "custom" and model_path is None:
        raise UsageError("-m custom needs --model-path")
    return ModelChoice(
        model_type=model_type,
        model_path=model_path,
        home=model_home(config),
        chunk_nt=flags.get("expected_length") or config.get("prediction.expected_length"),
        orf_policy=flags.get("orf_policy"),
        min_length=_first(flags.get("min_length"), config.get("prediction.min_length")),
        sample_n=flags.get("sample_n"),
    )


def _compute(flags: Flags, config: Config, gpus: tuple[int, ...]) -> Compute:
    workers = _first(flags.get("dataloader_workers"), config.get("features.dataloader_workers"))
    return Compute(
        device=flags.get("device") or config.get("device.name"),
        fallback_to_cpu=config.get("device.fallback_to_cpu"),
        gpus=gpus,
        ranks=flags.get("ranks"),
        dtype=embedding_dtype(config),
        threads=flags.get("threads") or config.get("prediction.threads"),
        classifier_batch=flags.get("batch_size") or config.get("prediction.batch_size"),
        reader_threads=_first(flags.get("num_workers"), config.get("prediction.num_workers")),
        sequences_per_file=config.get("prediction.sequences_per_file"),
        dna_tokens=flags.get("dnabert_batch_size") or config.get("features.dnabert.batch_size"),
        protein_tokens=flags.get("esm_batch_size") or config.get("features.esm.toks_per_batch"),
        loader_workers=workers,
        pin_memory=flags.get("pin_memory"),
        packing=not _switch("VIRNUCPRO_DISABLE_PACKING"),
        dnabert_v2=bool(flags.get("dnabert_v2")),
        v1_attention=bool(flags.get("v1_attention")) or _switch("VIRNUCPRO_V1_ATTENTION"),
        cache_clear_interval=_first(flags.get("cache_clear_interval"), 100),
        worker_timeout=config.get("prediction.worker_timeout"),
    )


def _calling(flags: Flags) -> Calling:
    if flags.get("conservative") and flags.get("relaxed"):
        raise UsageError("--conservative and --relaxed exclude each other: give one of them")
    calling = Calling(
        preset=next((name for name in PRESETS if flags.get(name)), None),
        min_score=flags.get("min_score"),
        max_fdr=flags.get("max_fdr"),
        gzip_fasta=bool(flags.get("gzip_fasta")),
    )
    try:
        _ = calling.thresholds
    except ValueError as error:
        raise UsageError(str(error)) from error
    return calling


def _output(flags: Flags, config: Config, resume: bool, repair: bool) -> Output:
    if resume and flags.get("force"):
        raise UsageError("--force starts over and --resume goes on: give one of them")
    keep = _first(flags.get("keep_intermediate"), config.get("files.keep_intermediate"))
    return Output(
        keep_intermediate=keep,
        resume=resume,
        repair=repair,
        force=bool(flags.get("force")),
        progress=config.get("progress.enabled") and not flags.get("no_progress"),
        report=not flags.get("no_report"),
    )


def _switch(name: str) -> bool:
    return parse_flag(os.environ.get(name, ""), name)


def _first(flag: Any, setting: Any) -> Any:
    return setting if flag is None else flag
