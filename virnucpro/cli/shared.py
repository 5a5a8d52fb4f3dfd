"""`virnucpro plan`, `worker`, `finish`, `status`: a prediction on many hosts, without a daemon."""

import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import AT_LEAST_1
from virnucpro.cli.predict import choose_gpus, predict
from virnucpro.cli.settings import build_settings, config_of
from virnucpro.core.device import detect_cuda_devices

_OF_A_PLAN = (
    "input_files", "paired", "interleaved", "reference", "min_length", "sample_n", "model_type",
    "model_path", "expected_length", "orf_policy", "min_score", "max_fdr", "conservative",
    "relaxed", "gzip_fasta", "resume", "force", "no_report", "threads", "batch_size", "precision",
)  # fmt: skip
RUN = click.argument("run", metavar="RUN")


def _of_predict(*names: str) -> list[click.Parameter]:
    return [parameter for parameter in predict.params if parameter.name in names]


@click.command(params=_of_predict(*_OF_A_PLAN))
@option("--output-dir", "-o", "run", required=True, metavar="RUN",
        help="Where workers find it: a folder that all see, or an s3:// or gs:// URL.")  # fmt: skip
@option("--device", "-d", type=click.Choice(["cpu", "cuda"]),
        help="What workers compute on; default: cuda if this host has a GPU.")  # fmt: skip
@option("--block", type=AT_LEAST_1, default=1, show_default=True,
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
    click.echo(f"{run}: {units} units; next: virnucpro worker {run}, on as many hosts as you like")


@click.command(params=_of_predict("threads", "gpus", "device"))
@RUN
@option("--lease", "lease_s", type=click.FloatRange(min=1), default=120.0, show_default=True,
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
    from virnucpro.pipeline.shared_run import SharedRun

    now = SharedRun(run).status()
    if as_json:
        click.echo(json.dumps(now, indent=1))
        return
    more = "" if now["planned"] else " so far"
    click.echo(f"{now['done']} of {now['units']} units{more} done, {now['failed']} of them failed")
    if now["left_s"] is not None:
        click.echo(f"{now['units_per_s']:.3g} units/s, ETA {timedelta(seconds=now['left_s'])}")
    for one in now["workers"]:
        blocks = ", ".join(map(str, one["blocks"]))
        click.echo(f"{one['worker']}: {one.get('units', 0)} units done, holds block {blocks}")
