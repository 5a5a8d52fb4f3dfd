"""`virnucpro train` and `virnucpro evaluate`: labelled FASTA to a model, and to its figures."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from virnucpro.cli.settings import model_home
from virnucpro.core.config import MODEL_TYPES, Config
from virnucpro.core.device import validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.files import locked, make_writable
from virnucpro.core.text import clipped

if TYPE_CHECKING:
    from virnucpro.training.figures import Row
    from virnucpro.training.jobs import Job

EXIT_IN_PART = 6
_DATA = click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the files that the configuration names; default: the configuration's own.",
)  # fmt: skip
_DEVICE = click.option("--device", "-d", default="auto", help="auto, cpu, cuda, cuda:N or N.")


@click.command()
@click.option(
    "--config", "config_file", required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Training configuration (YAML), such as recipes/mini.yaml.",
)  # fmt: skip
@_DATA
@click.option(
    "--output-dir", "-o", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Model directory to write.",
)  # fmt: skip
@click.option(
    "--run-dir", type=click.Path(file_okay=False, path_type=Path),
    help="Where the run keeps its state; default: {output-dir}.run. Call again to go on.",
)  # fmt: skip
@_DEVICE
@click.option("--seed", type=click.IntRange(0, 10**12), help="Override the recipe's seed.")
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

    Call it again after an interruption, and it goes on where the run directory stands. With
    `classifier: mlp` in the configuration the published classifier is trained on vectors of
    frozen encoders.
    """
    from virnucpro.models.manifest import MANIFEST
    from virnucpro.training.fit import FitSettings
    from virnucpro.training.jobs import MlpRecipe, read_job
    from virnucpro.training.run import train_bundled, train_mlp

    job, recipe = read_job(config_file, data)
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    where = validate_and_get_device(device)
    settings = FitSettings(
        folder=run_dir or output_dir.parent / f"{output_dir.name}.run",
        device=where,
        fused=where.type == "cuda" if fused is None else fused,
        stop_after=stop_after,
        progress=_wants_progress(ctx),
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
            mlp = train_mlp(job, recipe, settings, model_home(_config(ctx)), output_dir)
            if mlp is None:
                _pause(f"while embedding; {settings.folder} keeps what is done:")
            click.echo(
                f"{output_dir}: model written, epoch {mlp.epoch}; AUROC on held-out windows with "
                f"a reading frame {mlp.auroc:.4f}"
            )
        else:
            recipe = replace(recipe, steps=steps or recipe.steps)
            fit = train_bundled(job, recipe, settings, output_dir)
            if not fit.finished:
                _pause(f"at step {fit.step} of {recipe.steps};")
            click.echo(f"{output_dir}: model written; mean AUROC on dev {fit.best:.4f}")


def _pause(where: str) -> NoReturn:
    click.echo(f"paused {where} run again to go on")
    sys.exit(EXIT_IN_PART)


@click.command()
@click.argument("files", nargs=-1)
@click.option(
    "--labels", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TSV of id, class and group (or family) of every record; may be given again.",
)  # fmt: skip
@click.option(
    "--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the dev sets of a training configuration, such as recipes/mini.yaml.",
)  # fmt: skip
@_DATA
@click.option(
    "--decoys", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also measure a FASTA of sequences that callers mistake for viruses, kind by kind.",
)  # fmt: skip
@click.option(
    "--decoy-kinds", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TSV of id and kind of every decoy.",
)  # fmt: skip
@click.option("--windows", is_flag=True, help="Draw windows and nulls; else score whole records.")
@click.option(
    "--lengths", default="150,300,500,1000", show_default=True, help="Lengths of windows (nt)."
)
@click.option(
    "--count", type=click.IntRange(min=1), default=2000, show_default=True,
    help="Windows of each set and length.",
)  # fmt: skip
@click.option(
    "--null-count", type=click.IntRange(min=0), default=500, show_default=True,
    help="Random, shuffled and low-complexity windows of each length.",
)  # fmt: skip
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the windows."
)
@click.option(
    "--model-type", "-m", type=click.Choice(MODEL_TYPES),
    help="Model to measure; default: custom with --model-path, else mini.",
)  # fmt: skip
@click.option("--model-path", "-p", type=click.Path(path_type=Path), help="A custom model.")
@_DEVICE
@click.option(
    "--output-dir", "-o", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Where evaluation.tsv, evaluation.json and evaluation.html go.",
)  # fmt: skip
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
    from virnucpro.core.progress import ProgressReporter
    from virnucpro.models.store import resolve_model
    from virnucpro.training.evaluation import evaluate as measure
    from virnucpro.training.scoring import ModelOnDevice
    from virnucpro.training.windows import Drawing

    if (decoys is None) != (decoy_kinds is None):
        raise UsageError("--decoys and --decoy-kinds go together")
    job = _job(files, labels, config_file, data)
    if decoys:
        panel = replace(job.evaluate, decoys=decoys, decoy_kinds=decoy_kinds)
        job = replace(job, evaluate=panel)
    make_writable(output_dir)
    drawing = None
    if windows:
        drawing = Drawing(lengths=_lengths(lengths), count=count, null_count=null_count, seed=seed)
    kind = model_type or ("custom" if model_path else "mini")
    model = resolve_model(kind, model_path, model_home(_config(ctx)))
    progress = ProgressReporter(_wants_progress(ctx))
    report = measure(ModelOnDevice(model, device), job, drawing, progress)
    paths = report.write(output_dir)
    for row in report.rows:
        if row.level in ("set", "decoy"):
            click.echo(_line(row))
    click.echo(f"{output_dir}: {', '.join(path.name for path in paths)}")


def _job(
    files: tuple[str, ...], labels: tuple[Path, ...], config_file: Path | None, data: Path | None
) -> Job:
    from virnucpro.training.jobs import Job, LabelledFiles, read_evaluation

    if config_file is not None:
        if files or labels:
            raise UsageError("--config names files and labels itself: give it alone")
        return read_evaluation(config_file, data)
    if not files:
        raise UsageError("give labelled FASTA files, or --config")
    if labels:
        return Job(data=LabelledFiles(dev=tuple(map(Path, files)), table=labels))
    pairs = [name.partition("=") for name in files]
    if not all(kind and path for kind, _, path in pairs):
        raise UsageError("without --labels each file needs its class: virus=FILE bacteria=FILE")
    paths, classes = tuple(Path(path) for _, _, path in pairs), tuple(kind for kind, _, _ in pairs)
    return Job(data=LabelledFiles(dev=paths, classes=classes))


def _lengths(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", text):
        raise UsageError(f"--lengths {clipped(text)}: give numbers with commas between them")
    return tuple(int(part) for part in text.split(","))


def _line(row: Row) -> str:
    name = f"{row.set_name} {row.group}".strip()
    length = f"{row.length_nt:>6} nt" if row.length_nt else "      all"
    parts = [f"{length}  {name:<28} {row.count:>6}  coverage {row.coverage:.3f}"]
    if row.auroc == row.auroc:
        parts.append(f"AUROC {row.auroc:.3f}  recall at 1% {row.recall_1:.3f}  ECE {row.ece:.3f}")
    parts.append(f"virus {row.virus:.3f}  uncertain {row.uncertain:.3f}")
    return "  ".join(parts)


def _config(ctx: click.Context) -> Config:
    found: Config = ctx.ensure_object(dict).get("config") or Config.load(None, {})
    return found


def _wants_progress(ctx: click.Context) -> bool:
    obj: dict[str, Any] = ctx.ensure_object(dict)
    return not obj.get("quiet", False)
