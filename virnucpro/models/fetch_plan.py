"""What a fetch of the published models will download, from where, at which revision.

Room 4 (batch -> one vector per ORF). The first fetch resolves a revision; it is recorded and
stays, also while a download that broke off waits in `.partial`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.core.errors import ModelError
from virnucpro.core.text import clipped
from virnucpro.models.installed import Installed, file_problem, read_record
from virnucpro.models.published import (
    CLASSIFIER_LICENCE,
    CLASSIFIER_REPOSITORY,
    CLASSIFIER_REVISION,
    CLASSIFIERS,
    DNA_ENCODER,
    ENCODERS,
    PROTEIN_ENCODER,
    needed_files,
)
from virnucpro.models.web_file import remote_size

REVISION_FILE = ".revision"
TIMEOUT_S = 30.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


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
    """A file to download: name, bytes, and the hashes that the source states, if any."""

    name: str
    size: int
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchPlan:
    """What a fetch will download; nothing, if all is there.

    Attributes:
        name: encoder or model.
        source: repository.
        revision: its commit, 40 hexadecimal digits.
        licence: of the weights.
        folder: where the files will lie.
        files: those that are missing or damaged.
        installed: the record that they must match, if there is one.
    """

    name: str
    source: str
    revision: str
    licence: str
    folder: Path
    files: tuple[RemoteFile, ...]
    installed: Installed | None = None

    @property
    def size(self) -> int:
        """Bytes to download."""
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
        if name in CLASSIFIERS:
            wanted |= dict.fromkeys((DNA_ENCODER, PROTEIN_ENCODER, name))
        elif name in ENCODERS:
            wanted[name] = None
        else:
            known = ", ".join([*CLASSIFIERS, *ENCODERS])
            raise ModelError(f"{clipped(name)}: not a model that can be fetched; one of {known}")
    for name in revisions.keys() - wanted.keys():
        raise ModelError(f"a revision for {clipped(name)}, which is not fetched")
    return [_plan(name, home, revisions.get(name), network) for name in wanted]


def _plan(name: str, home: Path, pinned: str | None, network: Network) -> FetchPlan:
    folder = home / name if name in CLASSIFIERS else home / "encoders" / name
    installed = read_record(folder)
    damaged: list[str] = []
    if installed:
        if pinned and pinned != installed.revision:
            raise ModelError(
                f"{folder}: revision {installed.revision or 'of local files'} is installed; "
                f"remove the folder to fetch {pinned}"
            )
        records = installed.files.items()
        damaged = [key for key, one in records if file_problem(folder / key, one, full=True)]
    if network.offline and (damaged or not installed):
        raise ModelError(
            f"{name} is not installed whole in {home} and offline mode is on "
            "(VIRNUCPRO_OFFLINE or HF_HUB_OFFLINE); `virnucpro models import` takes local files"
        )
    if name in CLASSIFIERS:
        return _plan_classifier(name, folder, pinned, network, installed if not damaged else None)
    return _plan_encoder(name, home, pinned, network, installed, damaged)


def _plan_classifier(
    name: str, folder: Path, pinned: str | None, network: Network, installed: Installed | None
) -> FetchPlan:
    """The pickled module is converted and not kept, so a damaged one is fetched anew."""
    revision = pinned or CLASSIFIER_REVISION
    if not _COMMIT.fullmatch(revision):
        raise ModelError(
            f"{clipped(revision)}: give the revision of {name} as 40 hexadecimal digits"
        )
    published = CLASSIFIERS[name]
    files: tuple[RemoteFile, ...] = ()
    if not installed:
        size = remote_size(classifier_url(network, revision, published.file))
        blob = published.blob if revision == CLASSIFIER_REVISION else None
        files = (RemoteFile(published.file, size, blob=blob),)
    return FetchPlan(
        name=name, source=CLASSIFIER_REPOSITORY, revision=revision, folder=folder,
        licence=CLASSIFIER_LICENCE, files=files, installed=installed,
    )  # fmt: skip


def _plan_encoder(
    name: str, home: Path, pinned: str | None, network: Network,
    installed: Installed | None, damaged: list[str],
) -> FetchPlan:  # fmt: skip
    published, folder = ENCODERS[name], home / "encoders" / name
    if installed and not damaged:
        return FetchPlan(
            name=name, source=installed.source, revision=installed.revision, folder=folder,
            licence=installed.licence, files=(), installed=installed,
        )  # fmt: skip
    if installed and not installed.revision:
        raise ModelError(f"{folder}: damaged, and installed from local files; import them again")
    begun = begun_revision(home / ".partial" / name)
    revision = installed.revision if installed else pinned or begun or "main"
    info = _model_info(published.repository, revision, network)
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit) or (_COMMIT.fullmatch(revision) and commit != revision):
        raise ModelError(f"{published.repository}: asked for {revision}, the hub gave {commit}")
    remote = {one.rfilename: _remote_file(one) for one in info.siblings or ()}
    names = needed_files(remote)
    if installed:
        names = damaged
    if not names or not set(names) <= remote.keys() or "config.json" not in remote:
        raise ModelError(f"{published.repository} at {commit}: has no weights we can read")
    licence = str(getattr(info.card_data, "license", None) or published.licence)
    return FetchPlan(
        name=name, source=published.repository, revision=commit, licence=licence, folder=folder,
        files=tuple(remote[one] for one in names), installed=installed,
    )  # fmt: skip


def _remote_file(sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    return RemoteFile(
        name=str(sibling.rfilename),
        size=int(sibling.size or 0),
        sha256=str(lfs.sha256) if lfs else None,
        blob=str(sibling.blob_id) if sibling.blob_id and not lfs else None,
    )


def begun_revision(partial: Path) -> str | None:
    """The revision of a download that broke off: its files must not mix with newer ones."""
    try:
        text = (partial / REVISION_FILE).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def classifier_url(network: Network, revision: str, file: str) -> str:
    """Address of a file of the original's repository."""
    return f"{network.github}/{CLASSIFIER_REPOSITORY}/{revision}/{file}"


def _model_info(repository: str, revision: str, network: Network) -> Any:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=network.endpoint, token=False)
    try:
        return api.model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    except _network_errors() as error:
        raise ModelError(
            f"{repository} at {revision}: the hub gave no answer ({error}); fetch it where there "
            "is a network, then `virnucpro models import` takes the files"
        ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises; its versions stand on different HTTP libraries."""
    errors: list[type[Exception]] = [OSError, ValueError]
    for library in ("httpx", "httpx2"):
        with suppress(ImportError):
            errors.append(importlib.import_module(library).HTTPError)
    return tuple(errors)
