"""What was installed: every file of a model folder with its hash, and where it came from.

Room 4 (batch -> one vector per ORF). `installed.json` is written last, so a folder that has one
is whole; files must match it ever after.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virnucpro.core.errors import ModelError
from virnucpro.core.files import digest_of, sha256_file, write_json
from virnucpro.core.text import clipped, shown
from virnucpro.models.json_file import read_json

RECORD_NAME = "installed.json"
FORMAT = 1
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was installed: hexadecimal SHA-256, bytes, and time of change (ns)."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A folder of the model home.

    Attributes:
        folder: where the files lie.
        name: what a user calls it.
        kind: `encoder`, `classifier` or `model`.
        source: repository, URL or local path that it came from.
        revision: commit of the source, 40 hexadecimal digits; empty for local files.
        licence: of the weights.
        files: by plain name.
    """

    folder: Path
    name: str
    kind: str
    source: str
    revision: str
    licence: str
    files: Mapping[str, FileRecord]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    @property
    def sha256(self) -> str:
        """Hash over the names and hashes of all files."""
        return digest_of({name: record.sha256 for name, record in self.files.items()})


def is_plain_name(name: object) -> bool:
    """Whether a name can only mean a file right inside a folder.

    >>> [is_plain_name(name) for name in ("model.safetensors", "../x", ".x", "a/b", "")]
    [True, False, False, False, False]
    """
    return isinstance(name, str) and _PLAIN_NAME.fullmatch(name) is not None


def record_folder(
    folder: Path, *, name: str, kind: str, source: str, revision: str = "", licence: str = ""
) -> Installed:
    """Hash every file of a folder and write its record.

    Raises:
        ModelError: the folder holds something else than plain files.
    """
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name == RECORD_NAME:
            continue
        if path.is_symlink() or not path.is_file() or not is_plain_name(path.name):
            raise ModelError(f"{path}: only plain files belong into a model folder")
        status = path.stat()
        files[path.name] = FileRecord(sha256_file(path), status.st_size, status.st_mtime_ns)
    installed = Installed(
        folder=folder, name=name, kind=kind, source=source, revision=revision,
        licence=licence, files=files,
    )  # fmt: skip
    write_record(installed)
    return installed


def write_record(installed: Installed) -> None:
    """Write `installed.json`, atomically."""
    value: dict[str, Any] = {"format": FORMAT}
    value |= {key: getattr(installed, key) for key in _TEXTS}
    value["files"] = {name: asdict(record) for name, record in installed.files.items()}
    write_json(installed.folder / RECORD_NAME, value)


_TEXTS = ("name", "kind", "source", "revision", "licence")


def read_record(folder: Path) -> Installed | None:
    """Read `installed.json`; None where there is none.

    Raises:
        ModelError: it is damaged or of another format.
    """
    path = folder / RECORD_NAME
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    value = read_json(path)
    try:
        if value["format"] != FORMAT:
            raise ValueError(f"format {shown(value['format'])}")
        files = {name: FileRecord(**record) for name, record in value["files"].items()}
        texts = {key: str(value[key]) for key in _TEXTS}
        for name, record in files.items():
            if not is_plain_name(name) or not _SHA256.fullmatch(record.sha256):
                raise ValueError(f"file {shown(name)}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{path}: not a record of this program ({clipped(error)})") from error
    return Installed(folder=folder, files=files, **texts)


def check_installed(installed: Installed, *, full: bool = False) -> None:
    """Check that every file is the one that was installed.

    Args:
        installed: the record.
        full: hash each file; else only those whose time of change differs from the record.

    Raises:
        ModelError: a file is missing or is not the recorded one.
    """
    for name, record in installed.files.items():
        path = installed.folder / name
        problem = file_problem(path, record, full=full)
        if problem:
            raise ModelError(
                f"{path}: {problem}; `virnucpro models fetch {installed.name}` or "
                "`virnucpro models import` brings it back"
            )


def file_problem(path: Path, record: FileRecord, *, full: bool) -> str:
    """What is wrong with an installed file, in words; empty if nothing."""
    try:
        status = path.stat()
        if status.st_size != record.size:
            return f"has {status.st_size} bytes, {record.size} were installed"
        if not full and status.st_mtime_ns == record.mtime_ns:
            return ""
        return "" if sha256_file(path) == record.sha256 else "sha256 is not the recorded one"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
