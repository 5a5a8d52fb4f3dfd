"""`virnucpro models`: what is installed, how it gets there, and whether it computes right."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virnucpro.cli.settings import model_home
from virnucpro.core.config import Config, parse_flag
from virnucpro.core.errors import ModelError, UsageError
from virnucpro.core.text import clipped

if TYPE_CHECKING:
    from virnucpro.models.fetch import FetchPlan
    from virnucpro.models.manifest import Manifest
    from virnucpro.models.specs import EncoderSpec, ModelSpec
    from virnucpro.tools.verify import Check


@click.group()
@click.option(
    "--model-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where models lie; default: VIRNUCPRO_MODEL_DIR, settings, ~/.cache/virnucpro/models.",
)
@click.pass_context
def models(ctx: click.Context, model_dir: Path | None) -> None:
    """List, fetch, import and verify models."""
    obj = ctx.ensure_object(dict)
    config: Config = obj.setdefault("config", Config.load(None, os.environ))
    obj["home"] = model_dir or model_home(config)


@models.command("list")
@click.pass_obj
def list_command(obj: dict[str, Path]) -> None:
    """Show what is installed: where it lies, where it came from, size, licence and hashes."""
    from virnucpro.models import store

    home = obj["home"]
    click.echo(f"models in {home}")
    try:
        digest = store.load_model(store.BUNDLED, home).digest
        _show(store.model_in(store.BUNDLED), "mini (bundled)", f", digest {digest}")
    except ModelError as error:
        click.echo(f"\nmini (bundled): DAMAGED: {error}")
    installed = store.list_models(home)
    for record in installed:
        _show(record, f"{record.folder.name} ({record.kind})")
        try:
            record.check()
        except ModelError as error:
            click.echo(f"  DAMAGED: {error}")
    names = {record.folder.name for record in installed}
    for name in [name for name in ("300", "500") if name not in names]:
        click.echo(f"\n{name}: not installed; `virnucpro models fetch {name}`")


@models.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--revision",
    "revisions",
    multiple=True,
    metavar="[NAME=]COMMIT",
    help="Pin a revision; NAME is needed when more than one thing is fetched.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.pass_obj
def fetch(
    obj: dict[str, Path], names: tuple[str, ...], revisions: tuple[str, ...], yes: bool
) -> None:
    """Download NAMES: 300, 500 (each with its encoders), DNABERT-S, esm2_t36_3B_UR50D."""
    from virnucpro.models import fetch as fetching

    home = obj["home"]
    plans = fetching.plan_fetch(list(names), home, _revisions(revisions, names), _is_offline())
    _show_plans(plans, home)
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
@click.option("--name", required=True, help="What to call it: 300, 500, an encoder, or your own.")
@click.pass_obj
def import_command(obj: dict[str, Path], source: Path, name: str) -> None:
    """Install local files: a published .pth (its pickle is never run), or a model directory."""
    from virnucpro.models.store import install_local

    record = install_local(source, name, obj["home"], _prove)
    click.echo(f"{name}: installed in {record.folder}")
    for file, entry in record.files.items():
        click.echo(f"  {file}  sha256 {entry.sha256}")


def _prove(spec: EncoderSpec | ModelSpec) -> None:
    """Load what is about to be installed, one tensor of an encoder at a time."""
    from virnucpro.encoders.load import check_encoder
    from virnucpro.models import specs
    from virnucpro.scores.classifier import load_classifier

    if isinstance(spec, specs.EncoderSpec):
        check_encoder(spec)
        return
    for encoder in (spec.dna, spec.protein):
        if encoder.path.parent == spec.classifier.parent:  # the others are installed
            check_encoder(encoder)
    load_classifier(spec, "cpu")


@models.command()
@click.argument("name", required=False)
@click.option(
    "--golden",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of outputs of the original, to recompute.",
)
@click.option("--device", "-d", default="auto", help="auto, cpu, cuda, cuda:N or N.")
@click.pass_obj
def verify(obj: dict[str, Path], name: str | None, golden: Path | None, device: str) -> None:
    """Check hashes, compare every fast path with the plain one, and recompute published outputs.

    NAME is mini, 300, 500, an installed model or a model directory; by default mini, or with
    --golden 500. A --golden folder holds result folders of the original script, or of a run
    with --keep-intermediate.
    """
    from virnucpro.core.device import validate_and_get_device
    from virnucpro.tools import verify as checks

    home = obj["home"]
    spec = _resolve(name or ("500" if golden else "mini"), home)
    click.echo(f"{spec.name}: digest {spec.digest}")
    logging.getLogger("virnucpro.engines").setLevel(logging.WARNING)  # one engine a check
    _verify_hashes(spec)
    where = validate_and_get_device(device)
    failed = _show_checks(checks.verify_paths(spec, where))
    if golden:
        failed += _show_checks(checks.verify_golden(spec, golden, where))
    if failed:
        raise ModelError(f"{spec.name}: {failed} checks failed on {where}")
    click.echo(f"{spec.name}: all checks passed on {where}")


def _resolve(name: str, home: Path) -> ModelSpec:
    from virnucpro.models.store import resolve_model

    if name in ("mini", "300", "500"):
        return resolve_model(name, None, home)
    return resolve_model("custom", Path(name), home)


def _verify_hashes(spec: ModelSpec) -> None:
    """Hash every installed file that the model uses."""
    from virnucpro.models.manifest import read_manifest

    places = (spec.dna.path, spec.protein.path, spec.classifier)
    for folder in sorted({path if path.is_dir() else path.parent for path in places}):
        if record := read_manifest(folder):
            record.check(full=True)
            click.echo(f"ok    {folder.name}: {len(record.files)} files have their recorded hash")


def _show_checks(results: Iterable[Check]) -> int:
    """Print each check; return how many failed."""
    failed = 0
    for check in results:
        told = check.limit == float("inf")
        word = "FAIL  " if not check.passed else "      " if told else "ok    "
        limit = "" if told else f"  (limit {check.limit:.1e})"
        click.echo(f"{word}{check.what}: {check.value:.2e}{limit}")
        failed += not check.passed
    return failed


def _is_offline() -> bool:
    obj = click.get_current_context().find_object(dict) or {}
    offline = parse_flag(os.environ.get("HF_HUB_OFFLINE", ""), "HF_HUB_OFFLINE")
    return offline or bool(obj["config"].get("models.offline"))


def _revisions(given: tuple[str, ...], names: tuple[str, ...]) -> dict[str, str]:
    revisions = {}
    for text in given:
        name, _, revision = text.rpartition("=")
        if not name and len(names) > 1:
            raise UsageError(
                f"--revision {clipped(text)}: say for which of {', '.join(names)}: NAME=COMMIT"
            )
        revisions[name or names[0]] = revision
    return revisions


def _show_plans(plans: list[FetchPlan], home: Path) -> None:
    click.echo(f"download plan for {home}")
    for plan in plans:
        state = f"{_size(plan.size)} to download" if plan.files else "installed"
        click.echo(f"{plan.name}: {state}; {plan.source} at {plan.revision}; {plan.licence}")
        for file in plan.files:
            click.echo(f"  {file.name}  {_size(file.size)}")
    there = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    click.echo(f"total: {_size(sum(plan.size for plan in plans))}; free: {_size(free)}")


def _show(record: Manifest, title: str, more: str = "") -> None:
    click.echo(f"\n{title}: {_size(record.size)}, {record.licence}")
    revision = f" at {record.revision}" if record.revision else ""
    click.echo(f"  from {record.source}{revision}")
    click.echo(f"  in {record.folder}{more}")
    for name, entry in record.files.items():
        click.echo(f"  {name}  {_size(entry.size)}  sha256 {entry.sha256}")


def _size(count: int) -> str:
    """Bytes for people.

    >>> [_size(count) for count in (999, 6_800_000, 11_400_000_000)]
    ['999 B', '6.8 MB', '11.4 GB']
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
