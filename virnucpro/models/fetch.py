"""Fetch the published models: say what will come, download it, check it, install it.

Encoders come through the library of the Hugging Face hub, classifiers as files of a repository on
GitHub. The first fetch resolves a revision; it stays also while a download that broke off waits in
`.partial`, and what comes later must have the SHA-256 that was recorded then.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from virnucpro.core.errors import ModelError, OutputError
from virnucpro.core.files import sha256_file
from virnucpro.models import published
from virnucpro.models.manifest import Manifest, read_manifest, write_manifest
from virnucpro.models.store import describe_encoder, install_classifier

TIMEOUT_S = 30.0
PAUSE_S = 2.0
ATTEMPTS = 3
SPARE_BYTES = 64 << 20
_CLASSIFIER_BYTES = 6_840_000  # about, to say beforehand
_MAX_CLASSIFIER_BYTES = 64 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """How to reach the world.

    Attributes:
        offline: never ask the network for anything.
        endpoint: the hub's address; None means huggingface_hub's own.
        github: where raw files of GitHub repositories lie.
    """

    offline: bool = False
    endpoint: str | None = None
    github: str = "https://raw.githubusercontent.com"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download: name, about how many bytes, and the hashes that its source states."""

    name: str
    size: int
    sha256: str = ""
    blob: str = ""


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What a fetch will download; nothing, if all is there.

    Attributes:
        name: encoder or model.
        source: repository.
        revision: its commit, 40 hexadecimal digits.
        licence: of the weights.
        files: those that are missing or damaged.
        installed: what is there already.
    """

    name: str
    source: str
    revision: str
    licence: str
    files: tuple[RemoteFile, ...]
    installed: Manifest | None

    @property
    def size(self) -> int:
        """Bytes to download, about."""
        return sum(file.size for file in self.files)


def plan_fetch(
    names: list[str], home: Path, revisions: Mapping[str, str], network: Network
) -> list[FetchPlan]:
    """Say what must be downloaded; a model brings its encoders.

    Args:
        names: `300`, `500`, or names of published encoders.
        home: the model home.
        revisions: by name, where one is pinned.
        network: how to reach the world.

    Raises:
        ModelError: unknown name, no network, or what is installed has another revision.
    """
    wanted: dict[str, None] = {}
    for name in names:
        if name not in published.CLASSIFIERS and name not in published.ENCODERS:
            known = ", ".join([*published.CLASSIFIERS, *published.ENCODERS])
            raise ModelError(f"{name:.200}: not a model that can be fetched; one of {known}")
        if name in published.CLASSIFIERS:
            wanted |= dict.fromkeys((published.DNA_ENCODER, published.PROTEIN_ENCODER))
        wanted[name] = None
    for name in revisions.keys() - wanted.keys():
        raise ModelError(f"a revision for {name:.200}, which is not fetched")
    return [_plan(name, home, revisions.get(name), network) for name in wanted]


def _plan(name: str, home: Path, pinned: str | None, network: Network) -> FetchPlan:
    folder = _folder(name, home)
    installed = read_manifest(folder)
    damaged = (
        [one for one in installed.files if installed.problem(one, full=True)] if installed else []
    )
    if installed and pinned not in (None, installed.revision):
        raise ModelError(
            f"{folder}: revision {installed.revision or 'of local files'} is installed; "
            f"remove the folder to fetch {pinned:.80}"
        )
    if installed and not damaged:
        source, revision = installed.source, installed.revision
        return FetchPlan(name, source, revision, installed.licence, (), installed)
    if network.offline:
        raise ModelError(
            f"{name} is not installed whole in {home} and offline mode is on "
            "(VIRNUCPRO_OFFLINE or HF_HUB_OFFLINE); `virnucpro models import` takes local files"
        )
    if name in published.CLASSIFIERS:
        revision, known = pinned or published.CLASSIFIER_REVISION, published.CLASSIFIERS[name]
        if not _COMMIT.fullmatch(revision):
            raise ModelError(
                f"{revision:.80}: give the revision of {name} as 40 hexadecimal digits"
            )
        blob = known.blob if revision == published.CLASSIFIER_REVISION else ""
        files = (RemoteFile(known.file, _CLASSIFIER_BYTES, blob=blob),)
        source, licence = published.CLASSIFIER_REPOSITORY, published.CLASSIFIER_LICENCE
        return FetchPlan(name, source, revision, licence, files, installed)
    if installed and not installed.revision:
        raise ModelError(f"{folder}: damaged, and installed from local files; import them again")
    begun = [path.name.partition("@")[2] for path in (home / ".partial").glob(f"{name}@*")]
    revision = installed.revision if installed else pinned or (begun[0] if begun else "main")
    plan = _ask_hub(name, revision, network)
    remote = {file.name: file for file in plan.files}
    names = damaged or published.needed_files(remote)
    if not names or not {*names, "config.json"} <= remote.keys():
        raise ModelError(f"{plan.source} at {plan.revision}: has no weights we can read")
    return replace(plan, files=tuple(remote[one] for one in names), installed=installed)


def _folder(name: str, home: Path) -> Path:
    return home / name if name in published.CLASSIFIERS else home / "encoders" / name


def _ask_hub(name: str, revision: str, network: Network) -> FetchPlan:
    """All files of an encoder's repository."""
    from huggingface_hub import HfApi

    known = published.ENCODERS[name]
    api = HfApi(endpoint=network.endpoint, token=False)
    try:
        info = api.model_info(
            known.repository, revision=revision, files_metadata=True, timeout=TIMEOUT_S
        )
        commit = str(info.sha)
        licence = str(getattr(info.card_data, "license", None) or known.licence)
        files = tuple(
            RemoteFile(
                name=str(one.rfilename),
                size=max(0, int(one.size or 0)),
                sha256=str(one.lfs.sha256) if one.lfs else "",
                blob="" if one.lfs else str(one.blob_id or ""),
            )
            for one in info.siblings or ()
        )
    except Exception as error:  # of whichever HTTP library it stands on, or of odd content
        raise ModelError(
            f"{known.repository} at {revision:.80}: the hub gave no answer ({error!s:.200}); fetch "
            "it where there is a network, then `virnucpro models import` takes the files"
        ) from error
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
        raise ModelError(f"{known.repository}: asked for {revision:.80}, the hub gave {commit:.80}")
    return FetchPlan(name, known.repository, commit, licence, files, None)


def fetch(plan: FetchPlan, home: Path, network: Network) -> Manifest:
    """Download what is missing, check it, and put it in its place.

    Args:
        plan: from `plan_fetch`.
        home: the model home.
        network: how to reach the world.

    Raises:
        ModelError: no network, or a file is not what was stated or recorded; it is removed.
        OutputError: the disk is full or cannot be written.
    """
    if plan.installed and not plan.files:
        return plan.installed
    partial = home / ".partial" / f"{plan.name}@{plan.revision}"
    try:
        for other in {*partial.parent.glob(f"{plan.name}@*")} - {partial}:
            shutil.rmtree(other)
        partial.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial).free
        arrived = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if plan.size + SPARE_BYTES > free + arrived:
            raise OutputError(
                f"{home}: {plan.name} needs {plan.size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
            )
        for file in plan.files:
            _fetch_file(plan, file, partial / file.name, network)
        installed = _settle(plan, partial, home)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{home}: {plan.name} could not be stored ({error})") from error
    return installed


def _fetch_file(plan: FetchPlan, file: RemoteFile, path: Path, network: Network) -> None:
    if plan.name in published.CLASSIFIERS:
        url = f"{network.github}/{plan.source}/{plan.revision}/{file.name}"
        download(url, path, _MAX_CLASSIFIER_BYTES)
    else:
        from huggingface_hub import hf_hub_download

        try:
            hf_hub_download(
                plan.source, file.name, revision=plan.revision, local_dir=path.parent, token=False,
                endpoint=network.endpoint, etag_timeout=TIMEOUT_S,
            )  # fmt: skip
        except Exception as error:  # of whichever HTTP library it stands on, or of odd headers
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            raise ModelError(
                f"{plan.source}: {file.name} did not come ({error!s:.200}); fetch again to go on"
            ) from error
    recorded = plan.installed.files.get(file.name) if plan.installed else None
    is_right = path.is_file() and not path.is_symlink()
    is_right = is_right and file.blob in ("", git_blob(path))
    sha256 = sha256_file(path) if is_right else ""
    if not is_right or {file.sha256, recorded.sha256 if recorded else ""} - {"", sha256}:
        path.unlink(missing_ok=True)  # or the next fetch would take it for whole
        raise ModelError(
            f"{plan.source} at {plan.revision}: {file.name} is not the content that its source "
            "states, or that was recorded at the first fetch; refused"
        )


def _settle(plan: FetchPlan, partial: Path, home: Path) -> Manifest:
    """Give checked files their final place and record them."""
    folder, names = _folder(plan.name, home), [file.name for file in plan.files]
    if plan.name in published.CLASSIFIERS:  # converted and not kept, so a damaged one came anew
        if plan.installed:
            shutil.rmtree(folder)
        origin = f"github.com/{plan.source}/{names[0]}"
        return install_classifier(partial / names[0], plan.name, home, origin, plan.revision)
    if plan.installed:
        for name in names:
            (partial / name).replace(folder / name)
            time_ns = plan.installed.files[name].mtime_ns
            os.utime(folder / name, ns=(time_ns, time_ns))
        plan.installed.check()
        return plan.installed
    said = describe_encoder(partial, plan.name) | {"licence": plan.licence}
    made = write_manifest(partial, names, source=plan.source, revision=plan.revision, **said)
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # what the hub's library noted
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(folder)
    return replace(made, folder=folder)


def download(url: str, path: Path, limit: int) -> None:
    """Download a small file that is on no hub, whole: it is begun anew where it broke off.

    Args:
        url: address of the file.
        path: where to write it.
        limit: the most bytes that the file may have.

    Raises:
        ModelError: no connection, an error of the server, or too many bytes.
        OSError: `path` cannot be written.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "virnucpro"})
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                stated: int = reply.length or 0
                data = reply.read(limit + 1) if stated <= limit else b""
            if len(data) > limit or stated > limit:
                raise ModelError(f"{url}: gives more than {limit} bytes")
            if len(data) < stated:
                raise ValueError(f"{len(data)} of {stated} bytes came")
            break
        except urllib.error.HTTPError as error:
            error.close()
            raise ModelError(f"{url}: {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if attempt == ATTEMPTS:
                raise ModelError(f"{url}: cannot be fetched ({error!s:.200})") from error
            time.sleep(PAUSE_S * attempt)
    path.write_bytes(data)


def git_blob(path: Path) -> str:
    """Git's name for the content of a file (SHA-1, hexadecimal)."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
