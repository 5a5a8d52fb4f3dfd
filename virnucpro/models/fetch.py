"""Fetch the published models: say what will come, download it, check it, install it.

The first fetch resolves a revision, which stays, also while what broke off waits in `.partial`.
"""

import errno
import http.client
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from virnucpro.core.errors import ModelError, OutputError
from virnucpro.core.files import sha256_file
from virnucpro.core.text import clipped
from virnucpro.models import specs, store
from virnucpro.models.specs import CLASSIFIERS, ENCODERS
from virnucpro.models.store import Manifest, read_manifest

HUB: str | None = None  # its address; None means huggingface_hub's own
GITHUB = "https://raw.githubusercontent.com"
TIMEOUT_S = 30.0
PAUSE_S = 2.0
ATTEMPTS = 3
SPARE_BYTES = 64 << 20
_CLASSIFIER_BYTES = 6_840_000  # about, to say beforehand
_MAX_CLASSIFIER_BYTES = 64 << 20
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class RemoteFile(NamedTuple):
    """A file to download: name, about how many bytes, and the hashes that its source states."""

    name: str
    size: int
    sha256: str = ""
    blob: str = ""


class FetchPlan(NamedTuple):
    """What a fetch will download; nothing, if all is there."""

    name: str  # encoder or model
    folder: Path  # its place in the home
    source: str  # repository
    revision: str  # its commit, 40 hexadecimal digits
    licence: str  # of the weights
    files: tuple[RemoteFile, ...]  # those that are missing or damaged
    installed: Manifest | None  # what is there already

    @property
    def size(self) -> int:
        """Bytes to download, about."""
        return sum(file.size for file in self.files)


def plan_fetch(
    names: list[str], home: Path, revisions: Mapping[str, str], offline: bool = False
) -> list[FetchPlan]:
    """Say what must be downloaded for models or encoders; a model brings its encoders."""
    wanted: dict[str, None] = {}
    for name in names:
        if name not in CLASSIFIERS and name not in ENCODERS:
            known = ", ".join([*CLASSIFIERS, *ENCODERS])
            raise ModelError(f"{name:.200}: not a model that can be fetched; one of {known}")
        wanted |= dict.fromkeys([*(ENCODERS if name in CLASSIFIERS else ()), name])
    for name in revisions.keys() - wanted.keys():
        raise ModelError(f"a revision for {name:.200}, which is not fetched")
    return [_plan(name, home, revisions.get(name), offline) for name in wanted]


def _plan(name: str, home: Path, pinned: str | None, offline: bool) -> FetchPlan:
    folder = home / "encoders" / name if name in ENCODERS else home / name
    installed, damaged = read_manifest(folder), list[str]()
    if installed:
        if pinned not in (None, installed.revision):
            there = f"revision {installed.revision or 'of local files'} is installed"
            raise ModelError(f"{folder}: {there}; remove the folder to fetch {pinned:.80}")
        damaged = [file for file in installed.files if installed.problem(file, full=True)]
        if not damaged:
            facts = installed.source, installed.revision, installed.licence
            return FetchPlan(name, folder, *facts, (), installed)
    if offline:
        raise ModelError(
            f"{name} is not installed whole in {home} and offline mode is on (VIRNUCPRO_OFFLINE or "
            "HF_HUB_OFFLINE); `virnucpro models import` takes local files"
        )
    if name in CLASSIFIERS:
        revision, (published, blob) = pinned or specs.CLASSIFIER_REVISION, CLASSIFIERS[name]
        if not _COMMIT.fullmatch(revision):
            raise ModelError(f"{revision:.80}: the revision of {name} has 40 hexadecimal digits")
        blob = blob if revision == specs.CLASSIFIER_REVISION else ""
        remote = RemoteFile(published, _CLASSIFIER_BYTES, blob=blob)
        facts = specs.CLASSIFIER_REPOSITORY, revision, specs.CLASSIFIER_LICENCE
        return FetchPlan(name, folder, *facts, (remote,), installed)
    if installed and not installed.revision:
        raise ModelError(f"{folder}: damaged, and installed from local files; import them again")
    begun = [path.name.partition("@")[2] for path in (home / ".partial").glob(f"{name}@*")]
    revision = installed.revision if installed else pinned or (begun[0] if begun else "main")
    from huggingface_hub import HfApi

    source, licence = ENCODERS[name]
    try:
        info = HfApi(endpoint=HUB, token=False).model_info(
            source, revision=revision, files_metadata=True, timeout=TIMEOUT_S
        )
        commit = str(info.sha)
        licence = str(getattr(info.card_data, "license", None) or licence)
        offered = {}
        for one in info.siblings or ():
            hashes = (str(one.lfs.sha256), "") if one.lfs else ("", str(one.blob_id or ""))
            file = RemoteFile(str(one.rfilename), max(0, int(one.size or 0)), *hashes)
            offered[file.name] = file
    except Exception as error:  # of whichever HTTP library it stands on, or of odd content
        raise ModelError(
            f"{source} at {revision:.80}: the hub gave no answer ({clipped(error)}); "
            "fetch it where there is a network, then `virnucpro models import` takes the files"
        ) from error
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
        raise ModelError(f"{source}: asked for {revision:.80}, the hub gave {commit:.80}")
    names = damaged or specs.needed_files(offered)
    if not names or not {*names, "config.json"} <= offered.keys():
        raise ModelError(f"{source} at {revision}: has no weights we can read")
    wanted = tuple(offered[one] for one in names)
    return FetchPlan(name, folder, source, commit, licence, wanted, installed)


def fetch(plan: FetchPlan, home: Path) -> Manifest:
    """Download what is missing, check it against source and record, and put it in its place."""
    from huggingface_hub.utils.sha import git_hash

    installed = plan.installed
    if installed and not plan.files:
        return installed
    partial = home / ".partial" / f"{plan.name}@{plan.revision}"
    try:
        for other in {*partial.parent.glob(f"{plan.name}@*")} - {partial}:
            shutil.rmtree(other)
        partial.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial).free
        arrived = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if plan.size + SPARE_BYTES > free + arrived:
            sizes = f"{plan.name} needs {plan.size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
            raise OutputError(f"{home}: {sizes}")
        for file in plan.files:
            path = partial / file.name
            _download(plan, file, path)
            is_right = path.is_file() and not path.is_symlink()
            if is_right and file.blob:
                is_right = file.blob == git_hash(path.read_bytes())
            known = installed.files.get(file.name) if installed else None
            stated = {file.sha256, known.sha256 if known else ""} - {""}
            if not is_right or (stated and stated != {sha256_file(path)}):
                path.unlink(missing_ok=True)  # or the next fetch would take it for whole
                problem = "is not the content that its source states, or that was recorded; refused"
                raise ModelError(f"{plan.source} at {plan.revision}: {file.name} {problem}")
        if plan.name in CLASSIFIERS:  # converted, not kept: a damaged one came anew
            if installed:
                shutil.rmtree(plan.folder)
            origin = f"github.com/{plan.source}/{file.name}"
            installed = store.install_classifier(path, plan.name, home, origin, plan.revision)
        elif installed:
            for name in (file.name for file in plan.files):
                (partial / name).replace(plan.folder / name)
                os.utime(plan.folder / name, ns=(installed.files[name].mtime_ns,) * 2)
            installed.check()
        else:
            said = store.describe_encoder(partial, plan.name) | {"licence": plan.licence}
            said |= {"source": plan.source, "revision": plan.revision}
            installed = store.write_manifest(partial, [file.name for file in plan.files], **said)
            shutil.rmtree(partial / ".cache", ignore_errors=True)  # what the hub's library noted
            plan.folder.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(plan.folder)
            installed = replace(installed, folder=plan.folder)
        shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{home}: {plan.name} could not be stored ({error})") from error
    return installed


def _download(plan: FetchPlan, file: RemoteFile, path: Path) -> None:
    from huggingface_hub import hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            if plan.name in CLASSIFIERS:
                url = f"{GITHUB}/{plan.source}/{plan.revision}/{file.name}"
                with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply:
                    data: bytes = reply.read(_MAX_CLASSIFIER_BYTES + 1)
                if len(data) > _MAX_CLASSIFIER_BYTES:
                    raise ModelError(f"{url}: gives more than {_MAX_CLASSIFIER_BYTES} bytes")
                if reply.length:
                    raise http.client.IncompleteRead(data, reply.length)
                path.write_bytes(data)
                return
            for left in path.parent.rglob("*.incomplete") if not path.exists() else ():
                if left.stat().st_size >= file.size:  # it is not the file, and cannot be completed
                    left.unlink()
            hf_hub_download(
                plan.source, file.name, revision=plan.revision, local_dir=path.parent, token=False,
                endpoint=HUB, etag_timeout=TIMEOUT_S,
            )  # fmt: skip
            return
        except Exception as error:  # of whichever HTTP library it stands on, or of odd headers
            of_the_disk = isinstance(error, OSError) and error.errno in _OF_THE_DISK
            if isinstance(error, ModelError) or of_the_disk:
                raise
            if attempt == ATTEMPTS:
                problem = f"{file.name} did not come ({clipped(error)})"
                raise ModelError(f"{plan.source}: {problem}; fetch again to go on") from error
            time.sleep(PAUSE_S * attempt)
