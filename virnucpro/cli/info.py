"""Commands that say something and compute nothing: estimate, doctor, report, citation and so on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from click import option
from click.shell_completion import get_completion_class

from virnucpro.cli import options
from virnucpro.cli.options import flag
from virnucpro.cli.settings import config_of, model_home
from virnucpro.core.config import MODEL_TYPES
from virnucpro.core.device import detect_cuda_devices
from virnucpro.core.errors import ModelError, UsageError
from virnucpro.core.text import duration, gib

MARKS = {True: "ok", False: "FAIL", None: "--"}
COUNTED = ("records", "scored", "nt", "chunks", "orfs", "dna_tokens", "protein_tokens")
TOLD = (
    "{model}: {records:,} records, {nt:,} nt; {scored:,} to be scored in {chunks:,} chunks, about "
    "{orfs:,} ORFs, {dna_tokens:,} DNA tokens, {protein_tokens:,} protein tokens"
)


@click.command()
@click.argument("input_files", nargs=-1, required=True,
                type=click.Path(path_type=Path, readable=False))  # fmt: skip
@option("--model-type", "-m", "models", multiple=True, type=click.Choice(MODEL_TYPES),
        help="Model, may be given again; default: every installed one.")  # fmt: skip
@options.model_path
@option("--device", "-d", "devices", multiple=True,
        help="May be given again; default: the CPU, one GPU, and all GPUs.")  # fmt: skip
@options.expected_length
@options.min_length
@options.paired
@options.reference
@flag("--count-only", help="Count chunks and tokens; time nothing.")
@options.as_json
@click.pass_context
def estimate(
    ctx: click.Context, input_files: tuple[Path, ...], models: tuple[str, ...],
    model_path: Path | None, devices: tuple[str, ...], expected_length: int | None,
    min_length: int | None, paired: bool, reference: Path | None, count_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say what predicting INPUT_FILES will take on this machine.

    Reads the input whole, counts its chunks, reading frames and tokens, and times short
    predictions on a sample of it with each model and device.
    """
    from virnucpro.models.store import resolve_model
    from virnucpro.pipeline.inputs import plan_sources, read_sources
    from virnucpro.pipeline.run import orfs_per_unit
    from virnucpro.tools import estimate as pilots
    from virnucpro.tools.survey import refuse_pipes, survey

    refuse_pipes([*input_files, *([reference] if reference else [])])
    config = config_of(ctx)
    sources = plan_sources(input_files, {}, paired, reference)
    shortest = config.get("prediction.min_length") if min_length is None else min_length
    chunk_nt = expected_length or config.get("prediction.expected_length")
    gpus = detect_cuda_devices()
    if not devices:
        several = [",".join(map(str, gpus))] if len(gpus) > 1 else []
        devices = ("cpu", *(["cuda:0"] if gpus else []), *several)
    if model_path is not None and not models:
        models = ("custom",)
    rows = []
    for name in models or ("mini", "300", "500"):
        try:
            model = resolve_model(name, model_path, model_home(config))
        except ModelError:
            if models or name == "mini":
                raise
            click.echo(f"{name}: not installed", err=True)
            continue
        model = replace(model, chunk_nt=chunk_nt) if chunk_nt else model
        found = survey(read_sources(sources), model, shortest)
        row: dict[str, Any] = {"model": name, **{key: getattr(found, key) for key in COUNTED}}
        rows.append(row | {"runs": []})
        if not as_json:
            click.echo(TOLD.format(**row))
        for device in [] if count_only else devices:
            flags = ["-m", name, "--min-length", str(shortest)]
            flags += ["-p", str(model_path)] if model_path else []
            flags += ["-e", str(chunk_nt)] if chunk_nt else []
            is_listed = "," in device or (device.startswith("cuda") and len(gpus) > 1)
            numbers = device.removeprefix("cuda").removeprefix(":") or "0"
            flags += ["--gpus", numbers] if is_listed else ["--device", device]
            on_cpu, free = device == "cpu", pilots.free_memory()
            run: dict[str, Any] = {"device": device}
            if on_cpu and free is not None and model.weight_bytes > free:
                said = f"weights take {gib(model.weight_bytes)}, {gib(free)} of memory are free"
                run["problem"] = said
            elif not found.chunks:
                run["problem"] = said = "nothing to score"
            else:
                given = config.get("prediction.sequences_per_file")
                per_file = orfs_per_unit(given, on_cpu, model)
                smallest = pilots.smallest_pilot(model, on_cpu)
                pilot = pilots.run_pilots(found, flags, ctx.obj.get("config_file"))
                run |= asdict(pilots.estimate(found, per_file, smallest, pilot))
                said = f"about {duration(run['seconds'])}, memory {gib(run['memory'])}"
                said += f", GPU memory {gib(run['gpu_memory'])}" if run["gpu_memory"] else ""
            rows[-1]["runs"].append(run)
            if not as_json:
                click.echo(f"  on {device}: {said}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))


@click.command()
@option("--output-dir", "-o", type=options.OUTPUT, default=Path(),
        help="Where results would go; default: here.")  # fmt: skip
@options.as_json
@click.pass_context
def doctor(ctx: click.Context, output_dir: Path, as_json: bool) -> None:
    """Check packages, devices, weights and the disk; exit code 1 where something is wrong."""
    from virnucpro.tools.health import check_all

    findings = []
    for finding in check_all(model_home(config_of(ctx)), output_dir):
        findings.append(finding)
        if not as_json:
            click.echo(f"{MARKS[finding.ok]:>4}  {finding.title}: {finding.text}")
            if finding.remedy:
                click.echo(f"      -> {finding.remedy}")
    failed = [finding for finding in findings if finding.ok is False]
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        click.echo(f"{len(failed)} problems" if failed else "all well")
    sys.exit(1 if failed else 0)


@click.command()
@click.argument("output_dir", type=options.FOLDER)
def report(output_dir: Path) -> None:
    """Write report.html and virnucpro_mqc.json again from the tables in OUTPUT_DIR."""
    from virnucpro.core.files import read_json
    from virnucpro.reports.html import write_report

    if read_json(output_dir / "run.json").get("status") == "running":
        raise UsageError(f"{output_dir} holds a run that did not end; predict --resume goes on")
    click.echo(write_report(output_dir))


@click.command()
@flag("--bibtex", help="As BibTeX.")
def citation(bibtex: bool) -> None:
    """Say what to cite."""
    from virnucpro.reports.citations import references

    for reference in references():
        text = f"{reference.text}\n    for {reference.why}"
        click.echo(f"{reference.bibtex}\n" if bibtex else text)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    For bash: virnucpro completion bash > ~/.local/share/bash-completion/completions/virnucpro
    """
    made = get_completion_class(shell)
    assert made is not None  # click knows each of the choices
    root = ctx.find_root().command
    click.echo(made(root, {}, "virnucpro", "_VIRNUCPRO_COMPLETE").source())
