"""Commands that tell something: what a run costs and gave, what is here, settings and files."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import TOKENS, config_of, embedding_dtype, flag, model_home
from virnucpro.core.config import MODEL_TYPES, SWITCHES, Config, default_yaml, environment_name
from virnucpro.core.device import (
    detect_cuda_devices,
    device_name,
    usable_cpus,
    validate_and_get_device,
)
from virnucpro.core.errors import InputError, ModelError, UsageError, VirNucProError
from virnucpro.core.files import atomic_write, make_writable, write_json
from virnucpro.core.text import clipped, counted, duration, gib

if TYPE_CHECKING:
    from virnucpro.tools.health import Finding

ENCODERS = {"dnabert-s": ("dna", "DNABERT-S"), "esm2": ("protein", "esm2_t36_3B_UR50D")}
FLAGS = {"dna": "--dnabert-batch-size", "protein": "--esm-batch-size"}
COUNTED = ("records", "scored", "nt", "chunks", "orfs", "dna_tokens", "protein_tokens")


@click.command()
@click.argument("input_files", nargs=-1, required=True, type=options.INPUT)
@option("--model-type", "-m", "models", multiple=True, type=click.Choice(MODEL_TYPES),
        help="Model, may be given again; default: every installed one.")  # fmt: skip
@options.model_path
@option("--device", "-d", "devices", multiple=True,
        help="May be given again; default: the CPU, one GPU, and all GPUs.")  # fmt: skip
@options.expected_length
@options.min_length
@flag("--paired", expose_value=False, help="No effect: mates count like other records.")
@options.reference
@flag("--count-only", help="Count chunks and tokens; time nothing.")
@options.as_json
@click.pass_context
def estimate(
    ctx: click.Context, input_files: tuple[Path, ...], models: tuple[str, ...],
    model_path: Path | None, devices: tuple[str, ...], expected_length: int | None,
    min_length: int | None, reference: Path | None, count_only: bool, as_json: bool,
) -> None:  # fmt: skip
    """Say what predicting INPUT_FILES will take on this machine, within seconds.

    Counts chunks, reading frames and tokens of the input, of a large one from its first part, and
    knows rates from the last predictions here; the bundled model is timed where there was none.
    """
    from virnucpro.models.store import resolve_model
    from virnucpro.pipeline.inputs import check_inputs, is_pipe, shown_name
    from virnucpro.sequences.read_log import ReadLog
    from virnucpro.tools import estimate as costs

    for path in filter(None, (*input_files, reference)):
        if is_pipe(path):
            problem = "can be read once only, and every model reads it: store it in a file"
            raise UsageError(f"{shown_name(str(path))} {problem}")
    check_inputs(input_files)
    config = config_of(ctx)
    home, threads = model_home(config), config.get("prediction.threads") or usable_cpus()
    shortest = config["prediction.min_length"] if min_length is None else min_length
    chunk_nt = expected_length or config.get("prediction.expected_length")
    if not devices:
        gpus = detect_cuda_devices()
        several = ",".join(map(str, gpus))
        devices = ("cpu", "cuda:0", several)[: 1 + min(len(gpus), 2)]
    if model_path is not None and not models:
        models = ("custom",)
    chosen, absent, rows = [], list[str](), list[dict[str, Any]]()
    for name in models or ("mini", "300", "500"):
        try:
            chosen.append((name, resolve_model(name, model_path, home)))
        except ModelError:
            if models or name == "mini":
                raise
            absent.append(name)
    if absent:
        words = f"published models that are not installed: {', '.join(absent)}"
        click.echo(f"left out, {words} (virnucpro models list)", err=True)
    for name, model in chosen:
        model = replace(model, chunk_nt=chunk_nt) if chunk_nt else model
        log = ReadLog(is_silent=bool(rows))  # the same input for each model: one warning
        found = costs.survey(input_files, model, shortest, log, reference)
        row: dict[str, Any] = {"model": name, **{key: getattr(found, key) for key in COUNTED}}
        rows.append(row | {"runs": []})
        say = (lambda text: None) if as_json else click.echo
        tokens = f"{found.dna_tokens:,} DNA tokens, {found.protein_tokens:,} protein tokens"
        say(
            f"{'' if found.is_whole else 'about, from its first part, '}{name}: "
            f"{counted(found.records, 'record')}, {found.nt:,} nt; {found.scored:,} to be scored "
            f"in {counted(found.chunks, 'chunk')}, about {counted(found.orfs, 'ORF')}, {tokens}"
        )
        for device in [] if count_only else devices:
            numbers = device.split(",") if "," in device else []
            used = [f"cuda:{number}" for number in numbers] or [device_name(device)]
            run: dict[str, Any] = {}
            if not found.orfs:
                run["problem"] = said = "nothing to score"
            elif cost := costs.estimate(found, model, used, threads, home):
                run |= cost
                said = f"about {duration(cost['seconds'])}, memory {gib(cost['memory'])}"
                said += f", GPU memory {gib(cost['gpu_memory'])}" if cost["gpu_memory"] else ""
            else:
                count = 20 if used == ["cpu"] else 2_000
                said = f"no run of {name} here has told yet; one on some records will: "
                run["problem"] = said = f"{said}virnucpro predict -m {name} --sample-n {count}"
            rows[-1]["runs"].append({"device": device, **run})
            say(f"  on {device}: {said}")
    if as_json:
        click.echo(json.dumps(rows, indent=2))


@click.command()
@option("--model", "-m", "name", required=True, type=click.Choice(["dnabert-s", "esm2", "mini"]),
        help="dnabert-s and esm2 must be installed; mini measures both of its own.")  # fmt: skip
@options.device
@option("--min-batch", type=TOKENS, default=512)
@option("--max-batch", type=TOKENS, default=8192)
@option("--step", type=TOKENS, help="Tokens between budgets; default: twice.")
@option("--test-file", type=options.FILE,
        help="Measure with the ORFs of this FASTA or FASTQ instead of built-in ones.")  # fmt: skip
@option("--output", "-o", type=options.NEW_FILE, help="Also write JSON here.")
@click.pass_context
def profile(
    ctx: click.Context, name: str, device: str, min_batch: int, max_batch: int,
    step: int | None, test_file: Path | None, output: Path | None,
) -> None:  # fmt: skip
    """Find the best token budget on this machine.

    Embeds sequences with one budget after another (tokens per batch) and recommends the
    smallest whose rate is within 3% of the highest. A budget decides time and memory only; the
    packed engine of --parallel finds its own.
    """
    from virnucpro.models.store import find_encoder, resolve_model
    from virnucpro.tools.budget_search import CLOSE_ENOUGH, sample_sequences, try_budgets

    if min_batch > max_batch:
        raise UsageError(f"--min-batch {min_batch} is above --max-batch {max_batch}")
    config, chosen = config_of(ctx), validate_and_get_device(device)
    home, dtype = model_home(config), embedding_dtype(config)
    if output is not None:
        make_writable(output.parent)
    if name == "mini":
        model = resolve_model("mini", None, home)
        specs = {"dna": model.dna, "protein": model.protein}
    else:
        slot, wanted = ENCODERS[name]
        specs = {slot: find_encoder(wanted, home)}
    budgets = [min_batch]
    while (larger := budgets[-1] + (step or budgets[-1])) <= max_batch:
        budgets.append(larger)
    encoders: dict[str, object] = {}
    for slot, spec in specs.items():
        sequences = sample_sequences(slot, test_file)
        click.echo(f"{spec.name} on {chosen}, {len(sequences)} sequences")
        trials = []
        for trial in try_budgets(spec, sequences, budgets, chosen, dtype):
            trials.append(trial)
            rate, share = trial["tokens_per_s"], trial["efficiency"]
            said = f"{rate:>10,.0f} tokens/s  {share:.1%} real tokens"
            said += f"  {gib(trial['peak_bytes'])} at the peak" if trial["peak_bytes"] else ""
            said = said if trial["fits"] else "does not fit"
            click.echo(f"  {trial['token_budget']:>7} tokens  {said}")
        enough = CLOSE_ENOUGH * max(trial["tokens_per_s"] for trial in trials)
        winner = next(one["token_budget"] for one in trials if one["tokens_per_s"] >= enough)
        click.echo(f"  best: {FLAGS[slot]} {winner}")
        encoders[spec.name] = {"flag": FLAGS[slot], "recommended": winner, "trials": trials}
    if output is not None:
        write_json(output, {"device": str(chosen), "encoders": encoders})
        click.echo(f"wrote {output}")


@click.command()
@option("--output-dir", "-o", type=options.OUTPUT, default=".", help="Where results would go.")
@options.as_json
@click.pass_context
def doctor(ctx: click.Context, output_dir: Path, as_json: bool) -> None:
    """Check packages, devices, weights and the disk; exit code 1 where something is wrong."""
    from virnucpro.tools.health import check_all

    _show(check_all(model_home(config_of(ctx)), output_dir), as_json)


def _show(findings: Iterable["Finding"], as_json: bool) -> NoReturn:
    """Print findings, as they come unless as JSON; exit code 1 where something is wrong."""
    found, marks = [], {True: "ok", False: "FAIL", None: "--"}
    for finding in findings:
        found.append(finding)
        if not as_json:
            click.echo(f"{marks[finding.ok]:>4}  {finding.title}: {finding.text}")
            if finding.remedy:
                click.echo(f"      -> {finding.remedy}")
    failed = sum(finding.ok is False for finding in found)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in found], indent=2))
    else:
        click.echo(counted(failed, "problem") if failed else "all well")
    sys.exit(1 if failed else 0)


@click.command()
@click.argument("output_dir", type=options.FOLDER)
def report(output_dir: Path) -> None:
    """Write report.html and virnucpro_mqc.json again from the tables in OUTPUT_DIR."""
    from virnucpro.reports.html import write_report

    click.echo(write_report(output_dir))


@click.command()
@flag("--bibtex", help="As BibTeX.")
def citation(bibtex: bool) -> None:
    """Say what to cite."""
    from virnucpro.reports.pages import references

    for reference in references():
        text = f"{reference.text}\n    for {reference.why}"
        click.echo(f"{reference.bibtex}\n" if bibtex else text)


@click.command()
@click.argument("output_dir", type=options.FOLDER)
@click.argument("input_files", nargs=-1, required=True, type=options.FILE)
@option("--call", "calls", multiple=True, default=["virus"], help="May be given again.",
        type=click.Choice(["virus", "non-virus", "uncertain"]))  # fmt: skip
@option("--output", "-o", "targets", multiple=True, default=["-"], type=options.NEW_OR_DASH,
        help="Where to write; packed where the name ends in .gz. Given twice, one for each mate "
        "of pairs, which else come in turn.")  # fmt: skip
@flag("--force", "-f", help="Write over files that are there.")
@options.reference
def extract(
    output_dir: Path, input_files: tuple[Path, ...], calls: tuple[str, ...],
    targets: tuple[Path, ...], force: bool, reference: Path | None,
) -> None:  # fmt: skip
    """Write the records of INPUT_FILES that the run in OUTPUT_DIR called a virus.

    INPUT_FILES is an input of the run, or both files of a pair; it may have moved, as it is known
    by its content. Records come out as they are there, FASTA, FASTQ or BAM; of pairs both mates.
    """
    from virnucpro.tools.extract import extract as write_records

    for target in targets:
        if target.is_file() and not force:
            raise UsageError(f"{target} exists; --force writes over it")
    written, total, limits = write_records(
        output_dir, input_files, calls, targets, sys.stdout.buffer, reference
    )
    names = clipped(", ".join(map(str, input_files)))
    share = f"{written:,} of {counted(total, 'record')} of {names}"
    click.echo(f"{share}: {', '.join(calls)} (thresholds: {limits})", file=sys.stderr)


@click.group()
def utils() -> None:
    """List devices, validate files and checkpoints."""


@utils.command("list-devices")
@options.as_json
def list_devices(as_json: bool) -> None:
    """Show what predict can compute on, as `doctor` does: CPUs, and every GPU with its memory."""
    from virnucpro.tools.health import devices

    _show(devices(), as_json)


@utils.command()
@click.argument("file", type=options.INPUT)
@option("--max-errors", "-e", type=options.AT_LEAST_1, default=10, help="Errors to stop after.")
def validate(file: Path, max_errors: int) -> None:
    """Read FILE as predict would; exit 0 if it is fine, else 3 (bad input).

    An error is a fault that ends a run, or a record that is no DNA. Records that are too short
    or without a readable stretch, and ids that occur twice, are told: predict takes them.
    """
    from virnucpro.core.records import Status
    from virnucpro.pipeline.inputs import check_inputs, plan_sources, read_sources, spool
    from virnucpro.sequences.letters import screen_record
    from virnucpro.sequences.read_log import ReadLog

    log, letters, errors, statuses = ReadLog(), 0, list[str](), Counter[Status | None]()
    with TemporaryDirectory() as folder:
        try:
            check_inputs([file])
            sources = plan_sources([file], spool([file], Path(folder)), paired=False)
            for record in read_sources(sources, log):
                letters += len(record.sequence)
                status = screen_record(record)
                statuses[status] += 1
                if status is Status.NOT_DNA:
                    name = clipped(record.seq_id)
                    errors.append(f"{file}: record {log.records} ({name}) is not DNA")
                if len(errors) >= max_errors:
                    click.echo("note: the rest was not read (--max-errors)")
                    break
        except InputError as error:
            errors.append(str(error))
    for problem in errors:
        click.echo(f"error: {problem}")
    for status, why in (
        (Status.TOO_SHORT, "shorter than 60 nt: no call"),
        (Status.AMBIGUOUS, "without 60 plain bases in a row: no call by `longest`"),
    ):
        if count := statuses[status]:
            click.echo(f"note: {counted(count, 'record')} {why}")
    told = f"{counted(log.records, 'record')}, {letters:,} nt, {counted(len(errors), 'error')}"
    click.echo(f"{file}: {told}")
    sys.exit(InputError.exit_code if errors else 0)


@utils.command("generate-config")
@option("--output", "-o", type=options.NEW_OR_DASH, default="virnucpro_config.yaml",
        help='Where to write it; "-" prints it.')  # fmt: skip
@flag("--force", "-f", help="Write over a file that is there.")
def generate_config(output: Path, force: bool) -> None:
    """Write a YAML file with every setting, its default and what it does."""
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
    from virnucpro.pipeline.output_dir import LEDGER

    if not directory.is_dir():
        click.echo(f"{directory}: no such directory", err=True)
        sys.exit(3)
    checked = bad = 0
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        is_entry = path.suffix == ".entry" and path.parent.name == LEDGER
        if not is_entry and path.suffix not in (".pt", ".h5"):
            continue
        try:
            problem = _problem(path, not skip_load) if path.stat().st_size else "empty"
        except VirNucProError as error:
            problem = str(error).removeprefix(f"{path}: ")
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            problem = f"cannot be read ({clipped(error)})"
        checked += 1
        bad += bool(problem)
        click.echo(f"{'bad' if problem else 'ok':<5} {path}{problem and f': {problem}'}")
    click.echo(f"{counted(checked, 'file')} checked, {bad} bad")
    sys.exit(1 if bad else 0 if checked else 3)


def _problem(path: Path, load: bool) -> str:
    """What is wrong with a ledger's entry, an HDF5 shard, or a feature or merged file."""
    import zipfile

    from virnucpro.core.checkpoint import check_file, parse_entry
    from virnucpro.pipeline import features

    if path.suffix == ".entry":
        root = path.parent.parent.parent
        # an output that is gone is not bad: it is made again
        for name, (size, sha256) in parse_entry(path.read_bytes(), path).outputs.items():
            if (root / name).is_file() and load:
                check_file(root / name, size, sha256)
            elif (root / name).is_file() and (root / name).stat().st_size != size:
                return f"{name} is not what was committed"
    elif path.suffix == ".h5":
        import h5py

        if not load:
            return "" if h5py.is_hdf5(path) else "not an HDF5 file"
        features.read_vectors(path)
    elif not load:
        return "" if zipfile.is_zipfile(path) else "not a .pt file in zip form"
    elif path.stem.endswith("_merged"):
        features.read_merged(path)
    elif path.stem.endswith("_ESM"):
        features.read_protein_features(path)
    elif path.stem.endswith(("_DNABERT_S", "_DNABERT")):
        features.read_dna_features(path)
    else:
        return "neither features nor merged features, by its name"
    return ""


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
    shown, sources = {}, obj["config"].sources
    for name, value in obj["config"].items():
        shown[name] = {"value": value, "source": sources[name], "variable": environment_name(name)}
    if as_json:
        click.echo(json.dumps(shown, indent=1, default=str))
        return
    width = max(map(len, shown))
    for name, about in shown.items():
        value = "not set" if about["value"] is None else about["value"]
        click.echo(f"{name:<{width}}  {value}  ({about['source']})")
    for variable in SWITCHES:
        if variable in os.environ:
            click.echo(f"{variable}={os.environ[variable]}  (environment)")
