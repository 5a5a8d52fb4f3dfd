"""Fetch the published models: download what is planned, check it, record it.

Room 4 (batch -> one vector per ORF). Revision and SHA-256 of each file are recorded at the first
fetch, and whatever comes later must match. Downloads gather in `.partial` and get their final
name when they are whole and checked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from virnucpro.core.errors import ModelError, OutputError
from virnucpro.core.files import sha256_file
from virnucpro.models.fetch_plan import (
    REVISION_FILE,
    FetchPlan,
    Network,
    RemoteFile,
    begun_revision,
    classifier_url,
)
from virnucpro.models.installed import (
    FileRecord,
    Installed,
    check_installed,
    read_record,
    record_folder,
)
from virnucpro.models.published import CLASSIFIERS
from virnucpro.models.store import install_classifier
from virnucpro.models.unpickle import MAX_FILE_BYTES
from virnucpro.models.web_file import download, git_blob

SPARE_BYTES = 64 << 20


OnBytes = Callable[[int], None]


def fetch(
    plan: FetchPlan, home: Path, network: Network, on_bytes: OnBytes = lambda count: None
) -> Installed:
    """Download what is missing, check it, and put it in its place.

    Args:
        plan: from `plan_fetch`.
        home: the model home.
        network: how to reach the world.
        on_bytes: is told how many bytes have arrived since it was last told.

    Raises:
        ModelError: no network, or a file is not what was stated or recorded; it is removed.
        OutputError: the disk is full or cannot be written.
    """
    if plan.installed and not plan.files:
        return plan.installed
    partial = home / ".partial" / plan.name
    try:
        if begun_revision(partial) != plan.revision:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial).free
        arrived = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if plan.size + SPARE_BYTES > free + arrived:
            raise OutputError(
                f"{home}: {plan.name} needs {plan.size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
            )
        (partial / REVISION_FILE).write_text(plan.revision, encoding="ascii")
        for file in plan.files:
            _fetch_file(plan, file, partial, network, on_bytes)
        installed = _settle(plan, partial, home)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{home}: {plan.name} could not be stored ({error})") from error
    return installed


def _url(plan: FetchPlan, name: str, network: Network) -> str:
    if plan.name in CLASSIFIERS:
        return classifier_url(network, plan.revision, name)
    from huggingface_hub import hf_hub_url

    return hf_hub_url(plan.source, name, revision=plan.revision, endpoint=network.endpoint)


def _fetch_file(
    plan: FetchPlan, file: RemoteFile, partial: Path, network: Network, on_bytes: OnBytes
) -> None:
    path = partial / file.name
    if not path.exists() or not file.size or path.stat().st_size != file.size:
        download(_url(plan, file.name, network), path, file.size or MAX_FILE_BYTES, on_bytes)
    recorded = plan.installed.files.get(file.name) if plan.installed else None
    problem = _problem_with(path, file, recorded)
    if problem:
        path.unlink()
        raise ModelError(f"{plan.source} at {plan.revision}: {file.name} {problem}; refused")


def _problem_with(path: Path, file: RemoteFile, recorded: FileRecord | None) -> str:
    """What is wrong with a downloaded file, in words; empty if nothing."""
    if path.is_symlink() or not path.is_file():
        return "is no plain file"
    if file.size and path.stat().st_size != file.size:
        return f"has {path.stat().st_size} bytes instead of {file.size}"
    if file.blob and git_blob(path) != file.blob:
        return "is not the content that its source states"
    sha256 = sha256_file(path) if file.sha256 or recorded else ""
    if file.sha256 and sha256 != file.sha256:
        return "is not the content that its source states"
    if recorded and sha256 != recorded.sha256:
        return "is not the content that was recorded at the first fetch"
    return ""


def _settle(plan: FetchPlan, partial: Path, home: Path) -> Installed:
    """Give checked files their final place and record them."""
    if plan.name in CLASSIFIERS:
        if read_record(plan.folder):
            shutil.rmtree(plan.folder)
        source = partial / plan.files[0].name
        origin = f"github.com/{plan.source}/{source.name}"
        return install_classifier(source, plan.name, home, (origin, plan.revision))
    if plan.installed:
        for file in plan.files:
            path, record = plan.folder / file.name, plan.installed.files[file.name]
            (partial / file.name).replace(path)
            os.utime(path, ns=(record.mtime_ns, record.mtime_ns))
        check_installed(plan.installed)
        return plan.installed
    (partial / REVISION_FILE).unlink()
    installed = record_folder(
        partial, name=plan.name, kind="encoder", source=plan.source,
        revision=plan.revision, licence=plan.licence,
    )  # fmt: skip
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(plan.folder)
    return replace(installed, folder=plan.folder)
