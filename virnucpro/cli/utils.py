"""`virnucpro utils` and `virnucpro config`: devices, files, checkpoints, settings."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import flag
from virnucpro.core.config import SWITCHES, Config, default_yaml, environment_name
from virnucpro.core.device import detect_cuda_devices, usable_cpus
from virnucpro.core.errors import InputError, UsageError
from virnucpro.core.text import clipped, gib

CHECKPOINTS_BAD, CHECKPOINTS_ABSENT = 1, 3


@click.group()
def utils() -> None:
    """List devices, validate files and checkpoints."""


@utils.command("list-devices")
@options.as_json
def list_devices(as_json: bool) -> None:
    """Show what predict can compute on: CPUs, and every GPU with its memory."""
    cpus = f"{usable_cpus()} CPUs usable"
    devices: list[dict[str, str]] = [{"device": "cpu", "name": cpus, "numbers": "float32"}]
    for number in detect_cuda_devices():
        import torch

        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        memory = f"{free / 2**30:.1f} of {gib(total)} free"
        capability = f"{properties.major}.{properties.minor}"
        facts = {"memory": memory, "capability": capability, "numbers": "float16"}
        devices.append({"device": f"cuda:{number}", "name": properties.name, **facts})
    if as_json:
        click.echo(json.dumps(devices, indent=1))
        return
    for device in devices:
        click.echo("  ".join(device.values()))
    if len(devices) == 1:
        click.echo("no GPU: predict --device auto takes the CPU")


@utils.command()
@click.argument("file", type=options.INPUT)
@option("--max-errors", "-e", type=options.AT_LEAST_1, default=10, show_default=True,
        help="Stop after this many errors.")  # fmt: skip
def validate(file: Path, max_errors: int) -> None:
    """Read FILE as predict would; exit 0 if it is fine, else 3 (bad input).

    An error is a fault that ends a run, or a record that is no DNA. Records that are too short
    or without a readable stretch, and ids that occur twice, are notes: predict takes them.
    """
    from virnucpro.core.records import Status
    from virnucpro.pipeline.inputs import check_inputs, plan_sources, read_sources, spool
    from virnucpro.sequences.letters import screen_record
    from virnucpro.sequences.read_log import ReadLog

    log = ReadLog(is_silent=True)
    records = letters = 0
    errors: list[str] = []
    notes: Counter[str] = Counter()
    names = {
        Status.TOO_SHORT: "records shorter than 60 nt: no call",
        Status.AMBIGUOUS: "records without 60 plain bases in a row: no call by `longest`",
    }
    with TemporaryDirectory() as folder:
        try:
            check_inputs([file])
            sources = plan_sources([file], spool([file], Path(folder)), paired=False)
            for record in read_sources(sources, log):
                records += 1
                letters += len(record.sequence)
                status = screen_record(record)
                if status is Status.NOT_DNA:
                    errors.append(f"{file}: record {records} ({clipped(record.seq_id)}) is not DNA")
                elif status is not None:
                    notes[names[status]] += 1
                if len(errors) >= max_errors:
                    notes["error limit reached, the rest was not read"] += 1
                    break
        except InputError as error:
            errors.append(str(error))
    notes["records with an id seen before: renamed to {id}__2"] += log.duplicates
    notes["records without an id: named record_{n}"] += log.unnamed
    notes["gap letters: removed"] += log.gaps
    notes["digits in sequences: removed"] += log.digits
    notes["blanks in sequences: removed"] += log.blanks
    notes[f"records with '>' in their id, first: {log.first_mark}"] += log.marks
    notes["bgzip without its end block: is the file whole?"] += len(log.cut_short)
    for problem in errors:
        click.echo(f"error: {problem}")
    for name, count in sorted((+notes).items()):
        click.echo(f"note: {count} {name}")
    click.echo(f"{file}: {records} records, {letters} nt, {len(errors)} errors")
    if errors:
        sys.exit(InputError.exit_code)


@utils.command("generate-config")
@option("--output", "-o", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
        default="virnucpro_config.yaml", show_default=True,
        help='Where to write it; "-" prints it.')  # fmt: skip
@flag("--force", "-f", help="Write over a file that is there.")
def generate_config(output: Path, force: bool) -> None:
    """Write a YAML file with every setting, its default and what it does."""
    from virnucpro.core.files import atomic_write

    if str(output) == "-":
        click.echo(default_yaml(), nl=False)
        return
    if output.exists() and not force:
        raise UsageError(f"{output} exists; --force writes over it")
    with atomic_write(output, "w") as file:
        file.write(default_yaml())
    click.echo(f"wrote {output}; use it with: virnucpro --config {output} predict ...")


@utils.command("validate-checkpoints")
@click.argument("directory", type=options.PLACE)
@flag("--skip-load", help="Look at sizes and signatures, not at contents.")
def validate_checkpoints(directory: Path, skip_load: bool) -> None:
    """Check what --resume would reuse in DIRECTORY, a run's output directory.

    Nothing is changed and nothing stored in a file is executed. Exit 0: all whole; 1: something
    is damaged (--force-resume recomputes it); 3: no such directory, or nothing to check in it.
    """
    from virnucpro.tools.output_check import check_output_dir

    if not directory.is_dir():
        click.echo(f"{directory}: no such directory", err=True)
        sys.exit(CHECKPOINTS_ABSENT)
    checked = bad = 0
    for finding in check_output_dir(directory, load=not skip_load):
        checked += 1
        bad += bool(finding.problem)
        problem = f": {finding.problem}" if finding.problem else ""
        click.echo(f"{'bad' if problem else 'ok':<5} {finding.path}{problem}")
    click.echo(f"{checked} files checked, {bad} bad")
    if bad or not checked:
        sys.exit(CHECKPOINTS_BAD if bad else CHECKPOINTS_ABSENT)


@click.group()
def config() -> None:
    """Show the settings in force and where they come from."""


@config.command()
@options.as_json
@click.pass_obj
def show(obj: dict[str, Config], as_json: bool) -> None:
    """Every key with its value and its source: default, a file, or an environment variable.

    Flags of a command go before all of these. "not set" leaves the choice to the model or the
    machine.
    """
    shown = {}
    for name, value, source in obj["config"].items():
        plain = str(value) if isinstance(value, Path) else value
        shown[name] = {"value": plain, "source": source, "variable": environment_name(name)}
    if as_json:
        click.echo(json.dumps(shown, indent=1))
        return
    width = max(map(len, shown))
    for name, about in shown.items():
        value = "not set" if about["value"] is None else about["value"]
        click.echo(f"{name:<{width}}  {value}  ({about['source']})")
    for variable in SWITCHES:
        if variable in os.environ:
            click.echo(f"{variable}={os.environ[variable]}  (environment)")
