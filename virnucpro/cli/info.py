"""Commands that say something and compute nothing: estimate, doctor, report, citation and so on."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from virnucpro.cli.settings import PAIRED, REFERENCE, config_of, model_home
from virnucpro.core.config import MODEL_TYPES
from virnucpro.core.device import detect_cuda_devices
from virnucpro.core.errors import ModelError, UsageError
from virnucpro.core.text import duration, gib

if TYPE_CHECKING:
    from virnucpro.models.specs import ModelSpec
    from virnucpro.tools.survey import Survey

MARKS = {True: "ok", False: "FAIL", None: "--"}
COUNTED = ("records", "scored", "nt", "chunks", "orfs", "dna_tokens", "protein_tokens")
PLACE = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@click.argument(
    "input_files", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False)
)
@click.option(
    "--model-type", "-m", "models", multiple=True, type=click.Choice(MODEL_TYPES),
    help="Model, may be given again; default: every installed one.",
)  # fmt: skip
@click.option("--model-path", "-p", type=PLACE, help="A custom model.")
@click.option(
    "--device", "-d", "devices", multiple=True,
    help="Device, may be given again; default: the CPU, one GPU, and all GPUs.",
)  # fmt: skip
@click.option("--expected-length", "-e", type=click.IntRange(min=30), help="Chunk length (nt).")
@click.option("--min-length", type=click.IntRange(min=0), help="Shortest record (nt).")
@PAIRED
@REFERENCE
@click.option("--count-only", is_flag=True, help="Count chunks and tokens; time nothing.")
@JSON
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
    from virnucpro.pipeline.inputs import plan_sources, read_sources
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
    rows = []
    for name, model in _models(models, model_path, model_home(config)):
        chosen = replace(model, chunk_nt=chunk_nt) if chunk_nt else model
        found = survey(read_sources(sources), chosen, shortest)
        counts = {field: getattr(found, field) for field in COUNTED}
        row: dict[str, Any] = {"model": name, **counts, "runs": []}
        rows.append(row)
        if not as_json:
            click.echo(
                f"{name}: {found.records:,} records, {found.nt:,} nt; {found.scored:,} to be "
                f"scored in {found.chunks:,} chunks, about {found.orfs:,} ORFs, "
                f"{found.dna_tokens:,} DNA tokens, {found.protein_tokens:,} protein tokens"
            )
        for device in [] if count_only else devices:
            options = ["-m", name, "--min-length", str(shortest)]
            options += ["-p", str(model_path)] if model_path else []
            options += ["-e", str(chunk_nt)] if chunk_nt else []
            if "," in device:
                options += ["--gpus", device]
            elif device.startswith("cuda") and len(gpus) > 1:
                options += ["--gpus", device.removeprefix("cuda").removeprefix(":") or "0"]
            else:
                options += ["--device", device]
            run = {"device": device, **_time(ctx, found, chosen, device, options)}
            row["runs"].append(run)
            if as_json:
                continue
            if "problem" in run:
                click.echo(f"  on {device}: {run['problem']}")
                continue
            memory = f"memory {gib(run['memory'])}"
            memory += f", GPU memory {gib(run['gpu_memory'])}" if run["gpu_memory"] else ""
            click.echo(f"  on {device}: about {duration(run['seconds'])}, {memory}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))


@click.command()
@click.option(
    "--output-dir", "-o", type=PLACE, default=Path(),
    help="Where results would go; default: here.",
)  # fmt: skip
@JSON
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
@click.argument("output_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(output_dir: Path) -> None:
    """Write report.html and virnucpro_mqc.json again from the tables in OUTPUT_DIR."""
    from virnucpro.core.files import read_json
    from virnucpro.reports.html import write_report

    if read_json(output_dir / "run.json").get("status") == "running":
        raise UsageError(f"{output_dir} holds a run that did not end; predict --resume goes on")
    click.echo(write_report(output_dir))


@click.command()
@click.option("--bibtex", is_flag=True, help="As BibTeX.")
def citation(bibtex: bool) -> None:
    """Say what to cite."""
    from virnucpro.reports.citations import ALL

    for reference in ALL:
        if bibtex:
            click.echo(f"{reference.bibtex}\n")
        else:
            click.echo(f"{reference.text}\n    for {reference.why}")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL.

    For bash: virnucpro completion bash > ~/.local/share/bash-completion/completions/virnucpro
    """
    made = get_completion_class(shell)
    if made is None:
        raise UsageError(f"no completion for {shell}")
    root = ctx.find_root().command
    click.echo(made(root, {}, "virnucpro", "_VIRNUCPRO_COMPLETE").source())


def _models(
    names: tuple[str, ...], model_path: Path | None, home: Path
) -> list[tuple[str, ModelSpec]]:
    """The models asked for, or every installed one."""
    from virnucpro.models.store import resolve_model

    if model_path is not None and not names:
        names = ("custom",)
    if names:
        return [(name, resolve_model(name, model_path, home)) for name in names]
    found = []
    for name in ("mini", "300", "500"):
        try:
            found.append((name, resolve_model(name, None, home)))
        except ModelError:
            if name == "mini":
                raise
            click.echo(f"{name}: not installed", err=True)
    return found


def _time(
    ctx: click.Context, found: Survey, model: ModelSpec, device: str, options: list[str]
) -> dict[str, Any]:
    """What short runs say about the whole run, or the `problem` that forbids it."""
    from virnucpro.pipeline.run import orfs_per_unit
    from virnucpro.tools import estimate as pilots

    on_cpu = device == "cpu"
    needed, free = model.weight_bytes, pilots.free_memory()
    if on_cpu and free is not None and needed > free:
        return {"problem": f"weights take {gib(needed)}, {gib(free)} of memory are free"}
    if not found.chunks:
        return {"problem": "nothing to score"}
    smallest = pilots.smallest_pilot(model, on_cpu)
    given = config_of(ctx).get("prediction.sequences_per_file")
    per_file = orfs_per_unit(given, on_cpu, model)
    run = pilots.run_pilots(found, options, ctx.ensure_object(dict).get("config_file"))
    return asdict(pilots.estimate(found, per_file, smallest, run))
