"""`virnucpro predict`: flags to frozen settings, then one call."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from virnucpro.cli.settings import (
    LEAST,
    ORF_POLICIES,
    PAIRED,
    PRECISIONS,
    REFERENCE,
    build_settings,
    config_of,
)
from virnucpro.core.config import MODEL_TYPES, Config
from virnucpro.core.device import detect_cuda_devices, parse_gpu_list, validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.log import setup_logging
from virnucpro.pipeline.paths import default_output_dir
from virnucpro.pipeline.runtime_config import RuntimeConfig

logger = logging.getLogger("virnucpro.cli")

PACKED_ONLY = ("dnabert_v2", "ranks", "dataloader_workers")
STREAM_ONLY = ("v1_attention", "pin_memory")
FILE_WISE_ONLY = ("persistent_models", "cache_clear_interval")
DEPRECATED = {
    "skip_checkpoint_validation": "finished work is always checked by its checksum",
    "cuda_streams": "copies always overlap with computing",
}
AT_LEAST_1, AT_LEAST_0, TOKENS = (click.IntRange(min=least) for least in (1, 0, 16))
SHARE = click.FloatRange(0, 1)
INPUT = click.Path(path_type=Path, allow_dash=True, readable=False)
PLACE = click.Path(path_type=Path)


@click.command()
@click.argument("input_files", nargs=-1, required=True, type=INPUT)
@click.option(
    "--model-type", "-m", type=click.Choice(MODEL_TYPES),
    help="Model: mini ships with the package (default); 300 and 500 are the published ones; "
    "custom is what --model-path gives.",
)  # fmt: skip
@click.option(
    "--model-path", "-p", type=PLACE,
    help="A custom model: its folder, or the name that it was imported under.",
)  # fmt: skip
@click.option(
    "--expected-length", "-e", type=click.IntRange(min=LEAST["expected_length"]),
    help="Chunk length (nt); default: the model's (300 for -m 300, else 500).",
)  # fmt: skip
@click.option(
    "--orf-policy", type=click.Choice(ORF_POLICIES),
    help="Override the model's ORF policy; scores are then outside its training.",
)  # fmt: skip
@click.option("--min-length", type=AT_LEAST_0, help="Shortest record to score (nt).")
@click.option("--sample-n", type=AT_LEAST_1, help="Score only N records, for a look.")
@PAIRED
@REFERENCE
@click.option("--min-score", type=SHARE, help="Least p_virus of a virus.")
@click.option("--max-fdr", type=SHARE, help="Greatest fdr of a virus.")
@click.option(
    "--conservative", is_flag=True, help="Of the default viruses, p_virus 0.9 and fdr 0.05."
)
@click.option("--relaxed", is_flag=True, help="As --min-score 0.5.")
@click.option("--gzip-fasta", is_flag=True, help="Write viral.fasta.gz, not viral.fasta.")
@click.option(
    "--output-dir", "-o", type=PLACE,
    help="Where results go; default: {stem}_predictions in the current directory.",
)  # fmt: skip
@click.option("--device", "-d", help="auto, cpu, cuda, cuda:N or N.")
@click.option("--gpus", help="GPUs to use, such as 0,1; default: all that are visible.")
@click.option("--ranks", type=AT_LEAST_1, help="Processes of the packed engine.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS),
    help="Numbers to embed with; default: the setting device.dtype. fp8 is for ESM-2 on an H100 "
    "or later, and refused unless a sample of your ORFs keeps its scores.",
)  # fmt: skip
@click.option("--batch-size", "-b", type=AT_LEAST_1, help="Classifier batch (rows).")
@click.option("--num-workers", "-w", type=AT_LEAST_0, help="Threads that read merged files.")
@click.option(
    "--threads", "-t", type=AT_LEAST_1, help="CPU threads of the whole run; default: CPUs."
)
@click.option(
    "--merge-threads", type=AT_LEAST_1,
    help="Processes that merge feature files; implies --staged. Default: what helps.",
)  # fmt: skip
@click.option("--dnabert-batch-size", type=TOKENS, help="DNA tokens per batch.")
@click.option(
    "--esm-batch-size", type=TOKENS,
    help="Protein tokens per batch; --parallel sizes batches by memory.",
)  # fmt: skip
@click.option(
    "--staged", is_flag=True,
    help="Go through the original's stages and files in place of one stream.",
)  # fmt: skip
@click.option(
    "--parallel", is_flag=True,
    help="Staged, with proteins through the packed v2.0 engine on every GPU.",
)  # fmt: skip
@click.option(
    "--v1-fallback", is_flag=True,
    help="With --parallel: v1.0 multi-worker for ESM-2 instead of v2.0 async DataLoader.",
)  # fmt: skip
@click.option("--v1-attention", is_flag=True, help="Plain SDPA attention in the packed engine.")
@click.option(
    "--dnabert-v2", is_flag=True, help="With --parallel: DNA through the packed engine too."
)
@click.option(
    "--persistent-models/--no-persistent-models", default=False,
    help="Staged, with models that stay in GPU memory between stages, in processes that start "
    "once: more memory held continuously. A run loads each encoder once with or without; less "
    "loading for several samples in sequence is what virnucpro.Session in Python is for.",
)  # fmt: skip
@click.option("--dataloader-workers", type=AT_LEAST_0, help="Threads that tokenise, in each rank.")
@click.option(
    "--pin-memory/--no-pin-memory", default=None, help="Page-locked batches; default: on CUDA."
)
@click.option("--expandable-segments", is_flag=True, help="Let CUDA's allocator grow its segments.")
@click.option(
    "--cache-clear-interval", type=AT_LEAST_0, default=100, show_default=True,
    help="Split files between two clearings of the GPU cache; 0 never clears it.",
)  # fmt: skip
@click.option("--cuda-streams/--no-cuda-streams", default=None, help="Deprecated, no effect.")
@click.option(
    "--skip-checkpoint-validation", is_flag=True, default=None, help="Deprecated, no effect."
)
@click.option(
    "--keep-intermediate", "-k", is_flag=True, default=None,
    help="Keep chunk, ORF and feature files.",
)  # fmt: skip
@click.option(
    "--resume", is_flag=True, help="Reuse finished work whose input and settings are unchanged."
)
@click.option(
    "--force-resume", is_flag=True, help="Resume, recomputing only what fails its checksum."
)
@click.option("--force", "-f", is_flag=True, help="Remove an earlier run's files and start over.")
@click.option("--no-progress", is_flag=True, help="Show no progress.")
@click.option("--no-report", is_flag=True, help="Do not write report.html.")
@click.option(
    "--verbose/--quiet", "-v/-q", "talk", default=None, help="Log everything, or errors only."
)
@click.pass_context
def predict(
    ctx: click.Context, /, input_files: tuple[Path, ...], output_dir: Path | None, parallel: bool,
    v1_fallback: bool, resume: bool, force_resume: bool, persistent_models: bool, **flags: Any,
) -> None:  # fmt: skip
    """Score each record of INPUT_FILES as viral or not ("-" is standard input).

    INPUT_FILES are FASTA or FASTQ, plain or packed, or BAM, CRAM and SAM. Each is a sample of
    its own. Results: calls.tsv has one row for every input record; report.html shows them.
    """
    _set_up(ctx, flags)
    config = config_of(ctx)
    log_file = ctx.obj.get("log", {}).get("log_file")
    if log_file is not None and any(_is_one_file(log_file, path) for path in input_files):
        raise UsageError(f"--log-file {log_file} is an input; choose another one")
    ctx.obj["persistent_models"] = persistent_models
    gpus = _choose_gpus(flags["gpus"], flags["device"], config)
    if flags["v1_attention"] and v1_fallback:
        raise UsageError("--v1-attention belongs to the packed engine: drop --v1-fallback")
    use_v2 = parallel and not v1_fallback
    out = output_dir or default_output_dir(input_files)
    asked = {**flags, "parallel": parallel, "v1_fallback": v1_fallback}
    asked["persistent_models"] = ctx.obj["persistent_models"]
    settings = build_settings(asked, config, gpus, resume or force_resume, force_resume)
    compute = settings.compute
    _warn_of_no_effect(ctx, use_v2, compute.staged)
    if not gpus and compute.device not in ("auto", "cpu"):
        validate_and_get_device(compute.device, compute.fallback_to_cpu)
    if v1_fallback:
        logger.info("Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)")
    elif parallel:
        v1_dna, v2_dna = "v1.0 (fast enough, v2.0 planned for v2.1)", "v2.0 (--dnabert-v2)"
        logger.info("Architecture: v2.0 hybrid")
        logger.info("  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)")
        logger.info("  DNABERT-S embedding: %s", v2_dna if compute.dnabert_v2 else v1_dna)
    elif compute.staged:
        logger.info("Architecture: v1.0 (single-GPU or non-parallel mode)")
    else:
        logger.info(
            "Architecture: one stream (both encoders and the classifier in one process a device)"
        )
    persistent_models = ctx.obj["persistent_models"]
    if persistent_models:
        logger.info("Using persistent model loading - models will remain in GPU memory")
    runtime_config = None
    if use_v2:
        runtime_config = RuntimeConfig(
            enable_checkpointing=resume or force_resume,
            checkpoint_dir=out / ".checkpoints",
            force_restart=force_resume,
            dtype=compute.dtype,
            dataloader_workers=compute.loader_workers,
            pin_memory=compute.pin_memory,
            disable_packing=not compute.packing,
            v1_attention=compute.v1_attention,
            threads=compute.threads,
            devices=compute.devices,
            worker_timeout=compute.worker_timeout,
        )
    from virnucpro.pipeline import prediction  # looked up when called; torch loads behind it

    sys.exit(
        prediction.run_prediction(
            input_files=input_files,
            output_dir=out,
            settings=settings,
            persistent_models=persistent_models,
            use_v2_architecture=use_v2,
            runtime_config=runtime_config,
        )
    )


def _set_up(ctx: click.Context, flags: dict[str, Any]) -> None:
    """Set up the log and the environment of this run; warn about flags that are deprecated."""
    obj, talk = ctx.ensure_object(dict), flags["talk"]
    if talk is not None and "log" in obj:
        setup_logging(**{**obj["log"], "quiet": not talk, "verbose": talk})
    if obj.get("quiet", False) if talk is None else not talk:
        flags["no_progress"] = True
    for name, reason in DEPRECATED.items():
        if flags[name] is not None:
            flag = name.replace("_", "-")
            logger.warning("--%s is deprecated and has no effect: %s", flag, reason)
    if flags["expandable_segments"]:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _is_one_file(path: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them is not there
        return path.samefile(other)
    return False


def _warn_of_no_effect(ctx: click.Context, packed: bool, staged: bool) -> None:
    """Name the flags that were given and that no engine in use reads."""
    given = {
        name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    if packed:
        reasons = {"esm_batch_size": "with --parallel: memory decides"}
    else:
        reasons = dict.fromkeys(PACKED_ONLY, "without the packed engine: add --parallel")
        if staged:
            reasons |= dict.fromkeys(STREAM_ONLY, "without the packed engine: add --parallel")
    if packed and ctx.params["dnabert_v2"]:
        reasons["dnabert_batch_size"] = "with --dnabert-v2: memory decides"
        reasons |= dict.fromkeys(FILE_WISE_ONLY, "with --dnabert-v2: nothing goes file by file")
    for name, reason in reasons.items():
        if name in given:
            logger.warning("--%s has no effect %s", name.replace("_", "-"), reason)


def _choose_gpus(text: str | None, device: str | None, config: Config) -> tuple[int, ...]:
    """The GPUs of a run: those named, else all where there are several and no device is named."""
    devices = detect_cuda_devices()
    if text is not None:
        if device is not None:
            raise UsageError("--gpus and --device both say where to compute: give one of them")
        return tuple(parse_gpu_list(text, devices))
    is_auto = (device or config.get("device.name")).strip().lower() == "auto"
    return tuple(devices) if len(devices) > 1 and is_auto else ()
