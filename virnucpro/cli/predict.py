"""`virnucpro predict`, and `plan`, `worker`, `finish`, `status`: the same on many hosts."""

import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from click import option
from click.core import ParameterSource

from virnucpro.cli import options
from virnucpro.cli.options import AT_LEAST_0, AT_LEAST_1, TOKENS, build_settings, config_of, flag
from virnucpro.core.config import ORF_POLICIES, PRECISIONS, Config
from virnucpro.core.device import detect_cuda_devices, parse_gpu_list, validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.log import setup_logging
from virnucpro.core.text import counted
from virnucpro.pipeline.runtime_config import RuntimeConfig

logger = logging.getLogger("virnucpro.cli")

DEPRECATED = {
    "skip_checkpoint_validation": "finished work is always checked by its checksum",
    "cuda_streams": "copies always overlap with computing",
}
# Headings of --help, each by the option that it stands before.
HEADINGS = {
    "--paired": "Input", "--model-type": "Calling", "--output-dir": "Output",
    "--device": "Computing", "--gpus": "Published models and GPUs",
    "--cuda-streams": "Deprecated", "--help": "Help",
}  # fmt: skip
SHARE = click.FloatRange(0, 1)


class GroupedCommand(click.Command):
    """A command whose --help lists options under `HEADINGS`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading."""
        sections: list[tuple[str, list[tuple[str, str]]]] = []
        for parameter in self.get_params(ctx):
            sections += [(HEADINGS[flag], []) for flag in parameter.opts if flag in HEADINGS]
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                sections[-1][1].append(record)
        for heading, records in sections:
            with formatter.section(heading):
                formatter.write_dl(records)


@click.command(cls=GroupedCommand)
@click.argument("input_files", nargs=-1, required=True, type=options.INPUT)
@options.paired
@options.interleaved
@options.reference
@options.min_length
@option("--sample-n", type=AT_LEAST_1, help="Score only N records, for a look.")
@options.model_type
@options.model_path
@options.expected_length
@option("--orf-policy", type=click.Choice(ORF_POLICIES),
        help="Override the model's ORF policy; scores are then outside its training.")  # fmt: skip
@option("--min-score", type=SHARE, help="Least p_virus of a virus.")
@option("--max-fdr", type=SHARE, help="Greatest fdr of a virus.")
@flag("--conservative", help="Of the default viruses, p_virus 0.9 and fdr 0.05.")
@flag("--relaxed", help="As --min-score 0.5.")
@option("--output-dir", "-o", type=options.OUTPUT,
        help="Where results go; default: {stem}_predictions in the current directory.")  # fmt: skip
@flag("--gzip-fasta", help="Write viral.fasta.gz and regions.fasta.gz, not plain files.")
@flag("--keep-intermediate", "-k", default=None, help="Keep chunk, ORF and feature files.")
@flag("--resume", help="Reuse finished work whose input and settings are unchanged.")
@flag("--force-resume", help="Resume, recomputing only what fails its checksum.")
@flag("--force", "-f", help="Start over: an earlier run's files go, files of others stay.")
@flag("--no-report", help="Do not write report.html.")
@flag("--no-progress", help="Show no progress.")
@option("--verbose/--quiet", "-v/-q", "talk", default=None, help="Log everything, or errors only.")
@option("--device", "-d", help="auto, cpu, cuda, cuda:N or N.")
@option("--threads", "-t", type=AT_LEAST_1, help="CPU threads of the whole run; default: CPUs.")
@option("--batch-size", "-b", type=AT_LEAST_1, help="Classifier batch (rows).")
@option("--gpus", help="GPUs to use, such as 0,1; default: all that are visible.")
@option("--precision", type=click.Choice(PRECISIONS),
        help="Numbers to embed with; default: the setting device.dtype. fp8 is for ESM-2 on an "
        "H100 or later, and refused unless a sample of your ORFs keeps its scores.")  # fmt: skip
@option("--dnabert-batch-size", type=TOKENS, help="DNA tokens per batch.")
@option("--esm-batch-size", type=TOKENS,
        help="Protein tokens per batch; --parallel sizes batches by memory.")  # fmt: skip
@option("--executor", type=click.Choice(["local", "ray"]), default="local",
        help="Score here, or on a Ray cluster whose hosts see the output directory.")  # fmt: skip
@option("--ray-address", help="Of the cluster; default: RAY_ADDRESS, else one of this host alone.")
@option("--ray-cpus", type=AT_LEAST_1, default=1, help="CPUs of a worker on Ray without a GPU.")
@flag("--staged", help="Go through the original's stages and files in place of one stream.")
@option("--num-workers", "-w", type=AT_LEAST_0, help="Threads that read merged files.")
@option("--merge-threads", type=AT_LEAST_1,
        help="Processes that merge feature files, staged; default: what helps.")  # fmt: skip
@flag("--parallel", help="Staged, with proteins through the packed v2.0 engine on every GPU.")
@flag("--v1-fallback", help="With --parallel: "
      "v1.0 multi-worker for ESM-2 instead of v2.0 async DataLoader.")  # fmt: skip
@option("--ranks", type=AT_LEAST_1, help="Processes of the packed engine.")
@flag("--v1-attention", help="Plain SDPA attention in the packed engine.")
@flag("--dnabert-v2", help="With --parallel: DNA through the packed engine too.")
@option("--persistent-models/--no-persistent-models", default=False, show_default=False,
        help="Staged, with models that stay in GPU memory between stages, in processes that start "
        "once: more memory held continuously. A run loads each encoder once with or without; less "
        "loading for several samples in sequence is what virnucpro.Session is for.")  # fmt: skip
@option("--dataloader-workers", type=AT_LEAST_0, help="Threads that tokenise, in each rank.")
@option("--pin-memory/--no-pin-memory", default=None, help="Page-locked batches; default: on CUDA.")
@flag("--expandable-segments", help="Let CUDA's allocator grow its segments.")
@option("--cache-clear-interval", type=AT_LEAST_0, default=100,
        help="Split files between two clearings of the GPU cache; 0 never clears it.")  # fmt: skip
@option("--cuda-streams/--no-cuda-streams", default=None, help="Deprecated, no effect.")
@flag("--skip-checkpoint-validation", default=None, help="Deprecated, no effect.")
@click.pass_context
def predict(
    ctx: click.Context, /, input_files: tuple[Path, ...], output_dir: Path | None, parallel: bool,
    v1_fallback: bool, resume: bool, force_resume: bool, **flags: Any,
) -> None:  # fmt: skip
    """Score each record of INPUT_FILES as viral or not ("-" is standard input).

    INPUT_FILES are FASTA or FASTQ, plain or packed, or BAM, CRAM and SAM. Each is a sample of
    its own. Results: calls.tsv has one row for every input record; report.html shows them.
    """
    obj, talk = ctx.ensure_object(dict), flags["talk"]
    if talk is not None and "log" in obj:
        setup_logging(**{**obj["log"], "quiet": not talk, "verbose": talk})
    flags["no_progress"] |= obj.get("quiet", False) if talk is None else not talk
    for name, reason in DEPRECATED.items():
        if flags[name] is not None:
            flag = name.replace("_", "-")
            logger.warning("--%s is deprecated and has no effect: %s", flag, reason)
    if flags["expandable_segments"]:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config, log_file = config_of(ctx), obj.get("log", {}).get("log_file")
    for path in input_files if log_file else ():
        with suppress(OSError):  # one of them is not there
            if path.samefile(log_file):
                raise UsageError(f"--log-file {log_file} is an input; choose another one")
    persistent_models = ctx.obj["persistent_models"] = flags["persistent_models"]
    is_local = flags["executor"] == "local"
    gpus = choose_gpus(flags["gpus"], flags["device"], config) if is_local else ()
    if flags["v1_attention"] and v1_fallback:
        raise UsageError("--v1-attention belongs to the packed engine: drop --v1-fallback")
    use_v2 = parallel and not v1_fallback
    settings = build_settings(ctx.params | flags, config, gpus)
    compute = settings.compute
    _warn_of_no_effect(ctx, use_v2, compute.staged)
    if is_local and not gpus and compute.device not in ("auto", "cpu"):
        validate_and_get_device(compute.device, compute.fallback_to_cpu)
    if v1_fallback:
        logger.info("Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)")
    elif parallel:
        dna = "v1.0 (fast enough, v2.0 planned for v2.1)"
        logger.info("Architecture: v2.0 hybrid")
        logger.info("  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)")
        logger.info(
            "  DNABERT-S embedding: %s", "v2.0 (--dnabert-v2)" if compute.dnabert_v2 else dna
        )
    elif compute.staged:
        logger.info("Architecture: v1.0 (single-GPU or non-parallel mode)")
    else:
        words = "both encoders and the classifier in one process a device"
        logger.debug("Architecture: one stream (%s)", words)
    if persistent_models:
        logger.info("Using persistent model loading - models will remain in GPU memory")
    from virnucpro.pipeline import prediction  # looked up when called; torch loads behind it
    from virnucpro.pipeline.output_dir import default_output_dir

    out = output_dir or default_output_dir(input_files)
    runtime_config = None
    if use_v2:
        runtime_config = RuntimeConfig(
            enable_checkpointing=resume or force_resume,
            checkpoint_dir=out / ".checkpoints",
            force_restart=force_resume,
            devices=compute.devices,
        )
    code = prediction.run_prediction(
        input_files=input_files, output_dir=out, settings=settings,
        persistent_models=persistent_models, use_v2_architecture=use_v2,
        runtime_config=runtime_config,
    )  # fmt: skip
    sys.exit(code)


def _warn_of_no_effect(ctx: click.Context, packed: bool, staged: bool) -> None:
    """Name the flags that were given and that no engine in use reads."""
    if packed:
        reasons = {"esm_batch_size": "with --parallel: memory decides"}
    else:
        names = ["dnabert_v2", "ranks", "dataloader_workers"]
        names += ["v1_attention", "pin_memory"] * staged
        reasons = dict.fromkeys(names, "without the packed engine: add --parallel")
    if packed and ctx.params["dnabert_v2"]:
        reasons["dnabert_batch_size"] = "with --dnabert-v2: memory decides"
        names = ["persistent_models", "cache_clear_interval"]
        reasons |= dict.fromkeys(names, "with --dnabert-v2: nothing goes file by file")
    for name, reason in reasons.items():
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            logger.warning("--%s has no effect %s", name.replace("_", "-"), reason)


def choose_gpus(text: str | None, device: str | None, config: Config) -> tuple[int, ...]:
    """The GPUs of a run: those named, else all where there are several and no device is named."""
    devices = detect_cuda_devices()
    if text is not None:
        if device is not None:
            raise UsageError("--gpus and --device both say where to compute: give one of them")
        return tuple(parse_gpu_list(text, devices))
    is_auto = (device or config["device.name"]).strip().lower() == "auto"
    return tuple(devices) if len(devices) > 1 and is_auto else ()


_OF_A_PLAN = (
    "input_files", "paired", "interleaved", "reference", "min_length", "sample_n", "model_type",
    "model_path", "expected_length", "orf_policy", "min_score", "max_fdr", "conservative",
    "relaxed", "gzip_fasta", "resume", "force", "no_report", "threads", "batch_size", "precision",
)  # fmt: skip


def _as_path(ctx: click.Context, param: click.Parameter, value: str) -> str:
    return value.removeprefix("file://")


RUN = click.argument("run", metavar="RUN", callback=_as_path)


def _of_predict(*names: str) -> list[click.Parameter]:
    return [parameter for parameter in predict.params if parameter.name in names]


@click.command(params=_of_predict(*_OF_A_PLAN))
@option("--output-dir", "-o", "run", required=True, metavar="RUN", callback=_as_path,
        help="Where workers find it: a folder that all see, or an s3:// or gs:// URL.")  # fmt: skip
@option("--device", "-d", type=click.Choice(["cpu", "cuda"]),
        help="What workers compute on; default: cuda if this host has a GPU.")  # fmt: skip
@option("--block", type=AT_LEAST_1, default=1,
        help="Units that a worker claims at a time; 1 to 10 minutes of work are good.")  # fmt: skip
@click.pass_context
def plan(
    ctx: click.Context, /, input_files: tuple[Path, ...], run: str, block: int,
    device: str | None, **flags: Any,
) -> None:  # fmt: skip
    """Read INPUT_FILES once and leave their units of work in RUN, for `virnucpro worker RUN`.

    Workers may start at once, on any host that sees RUN and the same model.
    """
    from virnucpro.pipeline import shared_run

    flags["device"] = device or ("cuda" if detect_cuda_devices() else "cpu")
    if (path := flags["model_path"]) is not None and path.exists():
        flags["model_path"] = path.absolute()
    settings = build_settings(flags, config_of(ctx))
    settings = replace(settings, compute=replace(settings.compute, elsewhere=True))
    units = shared_run.plan(input_files, run, settings, block)
    made = counted(units, "unit")
    click.echo(f"{run}: {made}; next: virnucpro worker {run}, on as many hosts as you like")


@click.command(params=_of_predict("threads", "gpus", "device"))
@RUN
@option("--lease", "lease_s", type=click.FloatRange(min=1), default=120.0,
        help="Silence after which a worker's units go to others (s).")  # fmt: skip
@option("--finish", "is_last", is_flag=True, help="Make the tables too, once all units are done.")
@click.pass_context
def worker(
    ctx: click.Context, /, run: str, lease_s: float, is_last: bool, device: str | None,
    gpus: str | None, threads: int | None,
) -> None:  # fmt: skip
    """Score units of RUN until none is left, beside any number of other workers."""
    from virnucpro.pipeline import shared_run

    flags, config = {"device": device, "threads": threads}, config_of(ctx)
    settings = build_settings(flags, config, choose_gpus(gpus, device, config))
    units = shared_run.work(run, settings.compute, settings.model.home, lease_s)
    click.echo(f"{run}: no unit is left; {units} were scored here")
    if is_last:
        sys.exit(shared_run.finish(run))


@click.command()
@RUN
def finish(run: str) -> None:
    """Make the tables of RUN, whose units are all scored; needs the inputs again."""
    from virnucpro.pipeline import shared_run

    sys.exit(shared_run.finish(run))


@click.command()
@RUN
@options.as_json
def status(run: str, as_json: bool) -> None:
    """Show how far RUN is, how fast it goes, and which worker holds which blocks of units."""
    from virnucpro.pipeline.shared_run import open_run

    now = open_run(run).status()
    if as_json:
        click.echo(json.dumps(now, indent=1))
        return
    more = "" if now["planned"] else " so far"
    click.echo(f"{now['done']} of {now['units']} units{more} done, {now['failed']} of them failed")
    if now["planned"] and now["done"] == now["units"]:
        click.echo(f"next: virnucpro finish {run}")
    if now["left_s"] is not None:
        click.echo(f"{now['units_per_s']:.3g} units/s, ETA {timedelta(seconds=now['left_s'])}")
    for one in now["workers"]:
        blocks = ", ".join(map(str, one["blocks"]))
        click.echo(f"{one['worker']}: {one.get('units', 0)} units done, holds block {blocks}")
