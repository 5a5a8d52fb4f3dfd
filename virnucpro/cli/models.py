"""`virnucpro models`: what is installed, how it gets there, and whether it computes right."""

import logging
import os
import shutil
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import config_of, flag, model_home
from virnucpro.core.config import parse_flag
from virnucpro.core.errors import ModelError, UsageError
from virnucpro.core.text import clipped, counted, size


@click.group()
@option("--model-dir", type=options.NEW_FOLDER,
        help="Where models lie; default: the settings, or ~/.cache/virnucpro/models.")  # fmt: skip
@click.pass_context
def models(ctx: click.Context, model_dir: Path | None) -> None:
    """List, fetch, import and verify models."""
    config = config_of(ctx)
    ctx.obj |= {"home": model_dir or model_home(config), "offline": config.get("models.offline")}


@models.command("list")
@flag("--verbose", "-v", help="Also show where each came from, and its files with hashes.")
@click.pass_obj
def list_command(obj: dict[str, Any], verbose: bool) -> None:
    """Show what is installed: name, size, licence and place; with -v sources and hashes."""
    from virnucpro.models import store

    click.echo(f"models in {obj['home']}")
    bundled = store.model_in(store.BUNDLED)
    found = [("mini", bundled), *((one.folder.name, one) for one in store.list_models(obj["home"]))]
    names = [name for name, _ in found]
    width = max(map(len, names))
    for name, record in found:
        try:
            record.check()
            state = record.licence
        except ModelError as error:
            state = f"DAMAGED: {error}"
        kind = "bundled" if record is bundled else record.kind
        click.echo(f"{name:<{width}}  {kind:<10}  {size(record.size):>8}  {state}")
        if not (verbose or obj.get("log", {}).get("verbose")):
            continue
        revision = f" at {record.revision}" if record.revision else ""
        click.echo(f"  from {record.source}{revision}\n  in {record.folder}")
        for file, entry in record.files.items():
            click.echo(f"  {file}  {size(entry.size)}  sha256 {entry.sha256}")
    for name in ("300", "500"):
        if name not in names:
            click.echo(f"{name:<{width}}  not installed; `virnucpro models fetch {name}`")


@models.command()
@click.argument("names", nargs=-1, required=True)
@option("--revision", "revisions", multiple=True, metavar="[NAME=]COMMIT",
        help="Pin a revision; NAME is needed when more than one thing is fetched.")  # fmt: skip
@flag("--yes", "-y", help="Do not ask.")
@click.pass_obj
def fetch(
    obj: dict[str, Any], names: tuple[str, ...], revisions: tuple[str, ...], yes: bool
) -> None:
    """Download NAMES: 300, 500 (each with its encoders), DNABERT-S, esm2_t36_3B_UR50D."""
    from virnucpro.models import fetch as fetching

    home: Path = obj["home"]
    pinned = {}
    for text in revisions:
        name, _, revision = text.rpartition("=")
        if not name and len(names) > 1:
            which = f"say for which of {', '.join(names)}: NAME=COMMIT"
            raise UsageError(f"--revision {clipped(text)}: {which}")
        pinned[name or names[0]] = revision
    offline = parse_flag(os.environ.get("HF_HUB_OFFLINE", ""), "HF_HUB_OFFLINE")
    plans = fetching.plan_fetch(list(names), home, pinned, offline or obj["offline"])
    click.echo(f"download plan for {home}")
    for plan in plans:
        state = f"{size(plan.size)} to download" if plan.files else "installed"
        click.echo(f"{plan.name}: {state}; {plan.source} at {plan.revision}; {plan.licence}")
        for file in plan.files:
            click.echo(f"  {file.name}  {size(file.size)}")
    there = next(path for path in (home, *home.parents) if path.exists())
    total, free = sum(plan.size for plan in plans), shutil.disk_usage(there).free
    click.echo(f"total: {size(total)}; free: {size(free)}")
    missing = [plan for plan in plans if plan.files or not plan.installed]
    if not missing:
        click.echo("nothing to download")
        return
    if not yes and sys.stdin.isatty():
        click.confirm("Download?", default=True, abort=True)
    for plan in missing:
        record = fetching.fetch(plan, home)
        click.echo(f"{plan.name}: installed in {record.folder}")


@models.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@option("--name", required=True, help="What to call it: 300, 500, an encoder, or your own.")
@click.pass_obj
def import_command(obj: dict[str, Any], source: Path, name: str) -> None:
    """Install local files: a published .pth (its pickle is never run), or a model directory."""
    from virnucpro.models.store import install_local

    record = install_local(source, name, obj["home"], _prove)
    click.echo(f"{name}: installed in {record.folder}")
    for file, entry in record.files.items():
        click.echo(f"  {file}  sha256 {entry.sha256}")


def _prove(spec: Any) -> None:
    """Load what is about to be installed, one tensor of an encoder at a time."""
    from virnucpro.encoders.load import check_encoder
    from virnucpro.models.specs import EncoderSpec
    from virnucpro.scores.classifier import Classifier

    if isinstance(spec, EncoderSpec):
        check_encoder(spec)
        return
    for encoder in (spec.dna, spec.protein):
        if encoder.path.parent == spec.classifier.parent:  # the others are installed
            check_encoder(encoder)
    Classifier(spec)


@models.command()
@click.argument("name", required=False)
@option("--golden", type=options.FOLDER, help="Folder of outputs of the original, to recompute.")
@options.device
@click.pass_obj
def verify(obj: dict[str, Any], name: str | None, golden: Path | None, device: str) -> None:
    """Check hashes, compare every fast path with the plain one, and recompute published outputs.

    NAME is mini, 300, 500, an installed model or a model directory; by default mini, or with
    --golden 500. A --golden folder holds result folders of the original script, or of a run
    with --keep-intermediate.
    """
    from virnucpro.core.device import validate_and_get_device
    from virnucpro.models.store import read_manifest, resolve_model
    from virnucpro.tools import verify as checks

    name = name or ("500" if golden else "mini")
    kind, path = (name, None) if name in ("mini", "300", "500") else ("custom", Path(name))
    spec = resolve_model(kind, path, obj["home"])
    click.echo(f"{spec.name}: digest {spec.digest}")
    logging.getLogger("virnucpro.engines").setLevel(logging.WARNING)  # one engine a check
    places = (spec.dna.path, spec.protein.path, spec.classifier)
    for folder in sorted({path if path.is_dir() else path.parent for path in places}):
        if record := read_manifest(folder):
            record.check(full=True)
            told = f"{counted(len(record.files), 'file')} as recorded, by SHA-256"
            click.echo(f"ok    {folder.name}: {told}")
    where, failed = validate_and_get_device(device), 0
    proofs = (checks.verify_golden(spec, golden, where),) if golden else ()
    for check in chain(checks.verify_paths(spec, where), *proofs):
        word = "ok" if check.passed else "FAIL"
        click.echo(f"{word:<5} {check.what}: {check.value:.2e}  (limit {check.limit:.1e})")
        failed += not check.passed
    if failed:
        raise ModelError(f"{spec.name}: {counted(failed, 'check')} failed on {where}")
    click.echo(f"{spec.name}: all checks passed on {where}")
