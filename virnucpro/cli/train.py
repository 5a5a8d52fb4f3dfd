"""`virnucpro train` and `virnucpro evaluate`: labelled FASTA to a model, and to its figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from virnucpro.core.device import validate_and_get_device

EXIT_IN_PART = 6


@click.command()
@click.option(
    "--config", "config_file", required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Training configuration (YAML), such as recipes/mini.yaml.",
)  # fmt: skip
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the files that the configuration names; default: the configuration's own.",
)  # fmt: skip
@click.option(
    "--output-dir", "-o", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Model directory to write.",
)  # fmt: skip
@click.option(
    "--run-dir", type=click.Path(file_okay=False, path_type=Path),
    help="Where the run keeps its state; default: {output-dir}.run. Call again to go on.",
)  # fmt: skip
@click.option("--device", "-d", default="auto", help="auto, cpu, cuda, cuda:N or N.")
@click.option("--seed", type=int, help="Override the recipe's seed.")
@click.option("--steps", type=click.IntRange(min=1), help="Override the recipe's steps.")
@click.option(
    "--stop-after", type=click.FloatRange(min=0), default=float("inf"),
    help="Pause after this many seconds (exit code 6); the same command goes on.",
)  # fmt: skip
@click.option(
    "--compile/--no-compile", "fused", default=None, help="Fuse kernels; default: on GPUs."
)
@click.pass_context
def train(
    ctx: click.Context, config_file: Path, data: Path | None, output_dir: Path,
    run_dir: Path | None, device: str, seed: int | None, steps: int | None,
    stop_after: float, fused: bool | None,
) -> None:  # fmt: skip
    """Train a model on labelled FASTA; the same configuration and seed give the same model.

    Call it again after an interruption, and it goes on where the run directory stands.
    """
    from virnucpro.training.fit import FitSettings
    from virnucpro.training.run import finish_job, fit_job, load_sets, read_job

    given = {"seed": seed, "steps": steps}
    job = read_job(config_file, data, **{k: v for k, v in given.items() if v is not None})
    where = validate_and_get_device(device)
    settings = FitSettings(
        folder=run_dir or output_dir.with_name(f"{output_dir.name}.run"),
        device=where,
        fused=where.type == "cuda" if fused is None else fused,
        stop_after=stop_after,
        progress=_wants_progress(ctx),
    )
    sets = load_sets(job)
    fit, report = fit_job(job, sets, settings)
    if not report.finished:
        click.echo(f"paused at step {report.steps} of {job.recipe.steps}; run again to go on")
        sys.exit(EXIT_IN_PART)
    finish_job(job, fit, sets[1], output_dir)
    click.echo(f"{output_dir}: model written; mean AUROC on dev {report.best:.4f}")


def _wants_progress(ctx: click.Context) -> bool:
    obj: dict[str, Any] = ctx.ensure_object(dict)
    return not obj.get("quiet", False)
