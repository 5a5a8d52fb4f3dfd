"""`virnucpro predict`: flags to frozen settings, then one call."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from virnucpro.cli.settings import LEAST, ORF_POLICIES, build_settings, runtime_options
from virnucpro.core.config import MODEL_TYPES, Config
from virnucpro.core.device import detect_cuda_devices, parse_gpu_list, validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.log import setup_logging
from virnucpro.pipeline.paths import default_output_dir
from virnucpro.pipeline.runtime_config import RuntimeConfig

logger = logging.getLogger("virnucpro.cli")

DEPRECATED = {
    "skip_checkpoint_validation": "finished work is always checked by its checksum",
    "cuda_streams": "copies always overlap with computing",
}


@click.command()
@click.argument(
    "input_files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, allow_dash=True, readable=False),
)
@click.option(
    "--model-type",
    "-m",
    type=click.Choice(MODEL_TYPES),
    help="Model: mini ships with the package (default); 300 and 500 are the published ones; "
    "custom is what --model-path gives.",
)
@click.option(
    "--model-path",
    "-p",
    type=click.Path(path_type=Path),
    help="A custom model: its folder, or the name that it was imported under.",
)
@click.option(
    "--expected-length",
    "-e",
    type=click.IntRange(min=LEAST["expected_length"]),
    help="Chunk length (nt); default: the model's (300 for -m 300, else 500).",
)
@click.option(
    "--orf-policy",
    type=click.Choice(ORF_POLICIES),
    help="Override the model's ORF policy; scores are then outside its training.",
)
@click.option(
    "--min-length",
    type=click.IntRange(min=LEAST["min_length"]),
    help="Shortest record to score (nt).",
)
@click.option(
    "--sample-n",
    type=click.IntRange(min=LEAST["sample_n"]),
    help="Score only N records, for a look.",
)
@click.option("--paired", is_flag=True, help="Take the inputs two by two for files of mates.")
@click.option(
    "--reference", type=click.Path(dir_okay=False, path_type=Path), help="FASTA of CRAM inputs."
)
@click.option("--min-score", type=click.FloatRange(0, 1), help="Least p_virus of a virus.")
@click.option("--max-fdr", type=click.FloatRange(0, 1), help="Greatest fdr of a virus.")
@click.option(
    "--conservative", is_flag=True, help="Of the default viruses, p_virus 0.9 and fdr 0.05."
)
@click.option("--relaxed", is_flag=True, help="As --min-score 0.5.")
@click.option("--gzip-fasta", is_flag=True, help="Write viral.fasta.gz, not viral.fasta.")
@click.option(
    "--output-dir",
    "-o",
    type=click.Path(path_type=Path),
    help="Where results go; default: {stem}_predictions in the current directory.",
)
@click.option("--device", "-d", help="auto, cpu, cuda, cuda:N or N.")
@click.option("--gpus", help="GPUs to use, such as 0,1; more than one implies --parallel.")
@click.option("--ranks", type=click.IntRange(min=1), help="Processes of the packed engine.")
@click.option("--batch-size", "-b", type=click.IntRange(min=1), help="Classifier batch (rows).")
@click.option(
    "--num-workers", "-w", type=click.IntRange(min=0), help="Threads that read merged files."
)
@click.option(
    "--threads",
    "-t",
    "--merge-threads",
    "threads",
    type=click.IntRange(min=LEAST["threads"]),
    help="Processes that translate and merge (also: --merge-threads); default: CPUs.",
)
@click.option("--dnabert-batch-size", type=click.IntRange(min=16), help="DNA tokens per batch.")
@click.option(
    "--esm-batch-size",
    type=click.IntRange(min=16),
    help="Protein tokens per batch of the v1 engine; --parallel sizes batches by memory.",
)
@click.option(
    "--parallel", is_flag=True, help="Embed proteins with the packed v2.0 engine on every GPU."
)
@click.option(
    "--v1-fallback",
    is_flag=True,
    help="With --parallel: v1.0 multi-worker for ESM-2 instead of v2.0 async DataLoader.",
)
@click.option("--v1-attention", is_flag=True, help="Plain SDPA attention in the packed engine.")
@click.option(
    "--dnabert-v2", is_flag=True, help="With --parallel: DNA through the packed engine too."
)
@click.option(
    "--persistent-models/--no-persistent-models",
    default=False,
    help="Models stay in GPU memory between stages: less loading, more memory held "
    "continuously; recommended for several samples in sequence.",
)
@click.option("--dataloader-workers", type=click.IntRange(min=0), help="Processes that tokenise.")
@click.option(
    "--pin-memory/--no-pin-memory", default=None, help="Page-locked batches; default: on CUDA."
)
@click.option("--expandable-segments", is_flag=True, help="Let CUDA's allocator grow its segments.")
@click.option(
    "--cache-clear-interval",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Split files between two clearings of the GPU cache; 0 never clears it.",
)
@click.option("--cuda-streams/--no-cuda-streams", default=None, help="Deprecated, no effect.")
@click.option(
    "--skip-checkpoint-validation", is_flag=True, default=None, help="Deprecated, no effect."
)
@click.option(
    "--keep-intermediate",
    "-k",
    is_flag=True,
    default=None,
    help="Keep chunk, ORF and feature files.",
)
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
    ctx: click.Context,
    /,
    input_files: tuple[Path, ...],
    output_dir: Path | None,
    parallel: bool,
    v1_fallback: bool,
    resume: bool,
    force_resume: bool,
    persistent_models: bool,
    **flags: Any,
) -> None:
    """Score each record of INPUT_FILES as viral or not ("-" is standard input).

    INPUT_FILES are FASTA or FASTQ, plain or packed, or BAM, CRAM and SAM. Each is a sample of
    its own. Results: calls.tsv has one row for every input record; report.html shows them.
    """
    config = _prepare(ctx, flags)
    log_file = ctx.obj.get("log", {}).get("log_file")
    if log_file is not None and any(_is_one_file(log_file, path) for path in input_files):
        raise UsageError(f"--log-file {log_file} is an input; choose another one")
    ctx.obj["persistent_models"] = persistent_models
    gpus = _choose_gpus(flags["gpus"], flags["device"], config)
    parallel = parallel or len(gpus) > 1
    if flags["v1_attention"] and v1_fallback:
        raise UsageError("--v1-attention belongs to the packed engine: drop --v1-fallback")
    use_v2 = parallel and not v1_fallback
    _warn_of_no_effect(flags, parallel, v1_fallback)
    out = output_dir or default_output_dir(input_files)
    settings = build_settings(flags, config, gpus, resume or force_resume, force_resume)
    compute = settings.compute
    if not gpus and compute.device not in ("auto", "cpu"):
        validate_and_get_device(compute.device, compute.fallback_to_cpu)
    persistent_models = ctx.obj["persistent_models"]
    _log_architecture(parallel, v1_fallback, compute.dnabert_v2)
    if persistent_models:
        logger.info("Using persistent model loading - models will remain in GPU memory")
    runtime_config = None
    if use_v2:
        runtime_config = RuntimeConfig(
            enable_checkpointing=resume or force_resume,
            checkpoint_dir=out / ".checkpoints",
            force_restart=force_resume,
            **runtime_options(compute),
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


def _prepare(ctx: click.Context, flags: dict[str, Any]) -> Config:
    """Set up logging for this run, warn about flags without effect, and find the settings."""
    obj = ctx.ensure_object(dict)
    if flags["talk"] is not None and "log" in obj:
        setup_logging(**{**obj["log"], "quiet": not flags["talk"], "verbose": flags["talk"]})
    if obj.get("quiet", False) if flags["talk"] is None else not flags["talk"]:
        flags["no_progress"] = True
    for name, reason in DEPRECATED.items():
        if flags[name] is not None:
            logger.warning(
                "--%s is deprecated and has no effect: %s", name.replace("_", "-"), reason
            )
    if flags["expandable_segments"]:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = obj.get("config")
    return config if config is not None else Config.load(None, os.environ)


def _is_one_file(path: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them is not there
        return path.samefile(other)
    return False


def _warn_of_no_effect(flags: dict[str, Any], parallel: bool, v1_fallback: bool) -> None:
    """Name the flags that were given and that the engine in use does not read."""
    packed = parallel and not v1_fallback
    idle = {
        "--v1-fallback": v1_fallback and not parallel,
        "--dnabert-v2": flags["dnabert_v2"] and not packed,
        "--ranks": flags["ranks"] is not None and not packed,
        "--v1-attention": flags["v1_attention"] and not packed,
    }
    for flag, is_idle in idle.items():
        if is_idle:
            logger.warning("%s has no effect without the packed engine: add --parallel", flag)
    if packed and flags["esm_batch_size"] is not None:
        logger.warning("--esm-batch-size has no effect with --parallel: memory decides")


def _choose_gpus(text: str | None, device: str | None, config: Config) -> tuple[int, ...]:
    """The GPUs of a run: those named, else all where there are several and no device is named."""
    devices = detect_cuda_devices()
    if text is not None:
        if device is not None:
            raise UsageError("--gpus and --device both say where to compute: give one of them")
        return tuple(parse_gpu_list(text, devices))
    if len(devices) > 1 and (device or config.get("device.name")).strip().lower() == "auto":
        logger.info("Detected %d GPUs, enabling parallel processing", len(devices))
        return tuple(devices)
    return ()


def _log_architecture(parallel: bool, v1_fallback: bool, dnabert_v2: bool) -> None:
    if parallel and v1_fallback:
        logger.info("Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)")
    elif parallel:
        logger.info("Architecture: v2.0 hybrid")
        logger.info("  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)")
        if dnabert_v2:
            logger.info("  DNABERT-S embedding: v2.0 (--dnabert-v2)")
        else:
            logger.info("  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)")
    else:
        logger.info("Architecture: v1.0 (single-GPU or non-parallel mode)")
