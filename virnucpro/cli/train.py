"""`virnucpro train` and `virnucpro evaluate`: labelled FASTA to a model, and to its figures."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import AT_LEAST_0, AT_LEAST_1, config_of, flag, model_home
from virnucpro.core.device import validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.files import locked, make_writable
from virnucpro.core.text import clipped

EXIT_IN_PART = 6
_data = option(
    "--data", type=options.FOLDER,
    help="Folder of the files that the configuration names; default: the configuration's own.",
)  # fmt: skip


@click.command()
@option("--config", "config_file", required=True, type=options.FILE,
        help="Training configuration (YAML), such as recipes/mini.yaml.")  # fmt: skip
@_data
@option("--output-dir", "-o", required=True, type=options.NEW_FOLDER,
        help="Model directory to write.")  # fmt: skip
@option("--run-dir", type=options.NEW_FOLDER,
        help="The state of the run; default: {output-dir}.run. Call again to go on.")  # fmt: skip
@options.device
@option("--seed", type=click.IntRange(0, 10**12), help="Override the recipe's seed.")
@option("--steps", type=AT_LEAST_1, help="Override the recipe's steps.")
@option("--stop-after", type=click.FloatRange(min=0), default=float("inf"), show_default=False,
        help="Pause after so many seconds (exit code 6); the same command goes on.")  # fmt: skip
@option("--compile/--no-compile", "fused", default=None, help="Fuse kernels; default: on GPUs.")
@click.pass_context
def train(
    ctx: click.Context, config_file: Path, data: Path | None, output_dir: Path,
    run_dir: Path | None, device: str, seed: int | None, steps: int | None,
    stop_after: float, fused: bool | None,
) -> None:  # fmt: skip
    """Train a model on labelled FASTA; the same configuration and seed give the same model.

    Call it again after an interruption, and it goes on where the run directory stands. With
    `classifier: mlp` in the configuration the published classifier is trained on vectors of
    frozen encoders.
    """
    from virnucpro.models.store import MANIFEST
    from virnucpro.training.fit import FitSettings, train_bundled
    from virnucpro.training.jobs import MlpRecipe, read_job
    from virnucpro.training.mlp import train_mlp

    job, recipe = read_job(config_file, data)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    where = validate_and_get_device(device)
    settings = FitSettings(
        folder=run_dir or output_dir.parent / f"{output_dir.name}.run",
        device=where,
        fused=where.type == "cuda" if fused is None else fused,
        stop_after=stop_after,
        progress=not ctx.ensure_object(dict).get("quiet", False),
    )
    if isinstance(recipe, MlpRecipe) and steps is not None:
        raise UsageError("--steps is for the bundled kind; `classifier: mlp` counts epochs")
    is_used = output_dir.is_dir() and any(output_dir.iterdir())
    if is_used and not (output_dir / MANIFEST).is_file():
        raise UsageError(f"{output_dir} is not empty and holds no model; choose another -o")
    for folder in (output_dir.parent, settings.folder):
        make_writable(folder)
    with locked(settings.folder / ".lock"):
        if isinstance(recipe, MlpRecipe):
            mlp = train_mlp(job, recipe, settings, model_home(config_of(ctx)), output_dir)
            paused = "" if mlp else f"while embedding; {settings.folder} keeps what is done:"
            what = "AUROC on held-out windows with a reading frame"
            said = mlp and f", epoch {mlp[0]}; {what} {mlp[1]:.4f}"
        else:
            recipe = replace(recipe, steps=steps or recipe.steps)
            fit = train_bundled(job, recipe, settings, output_dir)
            paused = "" if fit.finished else f"at step {fit.step} of {recipe.steps};"
            said = f"; mean AUROC on dev {fit.best:.4f}"
    if paused:
        click.echo(f"paused {paused} run again to go on")
        sys.exit(EXIT_IN_PART)
    click.echo(f"{output_dir}: model written{said}")


@click.command()
@click.argument("files", nargs=-1)
@option("--labels", multiple=True, type=options.FILE,
        help="TSV of id, class and group (or family) of each record; may be repeated.")  # fmt: skip
@option("--config", "config_file", type=options.FILE,
        help="Take the dev sets of a training configuration, as recipes/mini.yaml.")  # fmt: skip
@_data
@option("--decoys", type=options.FILE,
        help="Also measure a FASTA of what callers mistake for viruses, kind by kind.")  # fmt: skip
@option("--decoy-kinds", type=options.FILE, help="TSV of id and kind of every decoy.")
@flag("--windows", help="Draw windows and nulls; else score whole records.")
@option("--lengths", default="150,300,500,1000", help="Lengths of windows (nt).")
@option("--count", type=AT_LEAST_1, default=2000, help="Windows of each set and length.")
@option("--null-count", type=AT_LEAST_0, default=500, help="Made-up windows of each length.")
@option("--seed", type=AT_LEAST_0, default=0, help="Of the windows.")
@options.model_type
@options.model_path
@options.device
@option("--output-dir", "-o", required=True, type=options.NEW_FOLDER,
        help="Where evaluation.tsv, evaluation.json and evaluation.html go.")  # fmt: skip
@click.pass_context
def evaluate(
    ctx: click.Context, files: tuple[str, ...], labels: tuple[Path, ...],
    config_file: Path | None, data: Path | None, decoys: Path | None, decoy_kinds: Path | None,
    windows: bool, lengths: str, count: int, null_count: int, seed: int, model_type: str | None,
    model_path: Path | None, device: str, output_dir: Path,
) -> None:  # fmt: skip
    """Measure a model on labelled FASTA, through the path that predictions take.

    FILES are FASTA: plain names with --labels, else CLASS=FILE, where the class is `virus`,
    `null` (no real sequence) or anything cellular. With --config the configuration's dev sets
    are measured, and no FILES are needed.
    """
    from virnucpro.core.log import ProgressReporter
    from virnucpro.models.store import resolve_model
    from virnucpro.pipeline.stream import DirectScorer
    from virnucpro.training.corpus import Drawing
    from virnucpro.training.evaluation import FILES
    from virnucpro.training.evaluation import evaluate as measure
    from virnucpro.training.jobs import Job, LabelledFiles, read_evaluation

    if (decoys is None) != (decoy_kinds is None):
        raise UsageError("--decoys and --decoy-kinds go together")
    if config_file is not None:
        if files or labels:
            raise UsageError("--config names files and labels itself: give it alone")
        job = read_evaluation(config_file, data)
    elif not files:
        raise UsageError("give labelled FASTA files, or --config")
    elif labels:
        job = Job(data=LabelledFiles(dev=tuple(map(Path, files)), table=labels))
    else:
        classes, _, names = zip(*(name.partition("=") for name in files), strict=True)
        if not all((*classes, *names)):
            raise UsageError("without --labels each file needs its class: virus=FILE bacteria=FILE")
        job = Job(data=LabelledFiles(dev=tuple(map(Path, names)), classes=classes))
    if decoys:
        panel = replace(job.evaluate, decoys=decoys, decoy_kinds=decoy_kinds)
        job = replace(job, evaluate=panel)
    make_writable(output_dir)
    drawing = None
    if windows:
        if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", lengths):
            raise UsageError(f"--lengths {clipped(lengths)}: give numbers with commas between them")
        of = tuple(map(int, lengths.split(",")))
        drawing = Drawing(lengths=of, count=count, null_count=null_count, seed=seed)
    kind = model_type or ("custom" if model_path else "mini")
    model = resolve_model(kind, model_path, model_home(config_of(ctx)))
    progress = ProgressReporter(not ctx.ensure_object(dict).get("quiet", False))
    for row in measure(DirectScorer(model, device), job, drawing, progress, output_dir):
        if row.level not in ("set", "decoy"):
            continue
        length = f"{row.length_nt:>6} nt" if row.length_nt else "      all"
        name = f"{row.set_name} {row.group}".strip()
        line = f"{length}  {name:<28} {row.count:>6}  coverage {row.coverage:.3f}"
        if row.auroc == row.auroc:
            line += f"  AUROC {row.auroc:.3f}  recall at 1% {row.recall_1:.3f}  ECE {row.ece:.3f}"
        click.echo(f"{line}  virus {row.virus:.3f}  uncertain {row.uncertain:.3f}")
    click.echo(f"{output_dir}: {', '.join(FILES)}")
