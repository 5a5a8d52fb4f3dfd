"""`model.json`: what lies in a model folder, where it came from, and what it is for.

Every folder with weights has one, of the fields of `Manifest`. It is written last, so a folder that
has one is whole, and its files must match it ever after.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.core.build import build
from virnucpro.core.errors import ConfigError, ModelError
from virnucpro.core.files import digest_of, sha256_file, write_json
from virnucpro.models.specs import EncoderKind, EncoderSpec, is_plain_name
from virnucpro.sequences.orfs import OrfPolicy

MANIFEST = "model.json"
FORMAT = 2
_OLD_RECORD = "installed.json"
_MAX_JSON_BYTES = 1 << 24
_MOST_DIM, _MOST_CHUNK_NT = 1 << 16, 1_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as it was installed."""

    sha256: str
    size: int
    mtime_ns: int  # time of change, stands for the hash of what is too large; 0 where it is not


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """Weights in a file of the folder, those of an installed encoder, or the folder itself."""

    kind: EncoderKind = "esm2"
    dim: int = 0
    file: str = ""  # empty where the weights are a folder in a published layout
    installed: str = ""  # name of an encoder of the model home; then all else is left out


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """Parts of a model, by the names of their files."""

    dna: EncoderEntry
    protein: EncoderEntry
    classifier: str
    calibration: str  # or empty
    orf_policy: OrfPolicy
    chunk_nt: int
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model folder."""

    folder: Path
    format: int
    name: str  # its own; installed, it is called by the name of its folder
    source: str  # repository, URL or local path that it came from
    revision: str  # commit of the source, 40 hexadecimal digits; empty for local files
    licence: str
    files: dict[str, FileEntry]  # all that are used, by plain name
    encoder: EncoderEntry | None = None
    model: ModelEntry | None = None

    def __post_init__(self) -> None:
        encoder, parts = self.encoder, self.model
        _must(bool(encoder) != bool(parts), "not one of encoder and model in", self.name)
        slots = [encoder] if encoder else [parts.dna, parts.protein] if parts else []
        used = [slot.file for slot in slots if slot.file]
        if parts:
            used += [parts.classifier, *([parts.calibration] if parts.calibration else [])]
            _must(1 <= parts.chunk_nt <= _MOST_CHUNK_NT, "chunk_nt", parts.chunk_nt)
        for slot in slots:
            if parts and slot.installed:
                _must(is_plain_name(slot.installed), "installed", slot.installed)
                _must(not slot.dim and not slot.file, "an installed encoder with", slot.file)
            else:
                _must(1 <= slot.dim <= _MOST_DIM and not slot.installed, "dim", slot.dim)
                _must(encoder or slot.file, "an encoder without a file", slot.kind)
        for name in (self.name, *self.files):
            _must(is_plain_name(name), "name", name)
        for name in used:
            _must(name in self.files, "a file that is not listed:", name)
        for file in self.files.values():
            _must(_SHA256.fullmatch(file.sha256), "sha256", file.sha256)

    @property
    def kind(self) -> str:
        """`encoder` or `model`."""
        return "encoder" if self.encoder else "model"

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def problem(self, name: str, *, full: bool) -> str:
        """What is wrong with a file, in words; `full` hashes it whatever its time of change."""
        path, file = self.folder / name, self.files[name]
        try:
            status = path.stat()
            if status.st_size != file.size:
                return f"has {status.st_size} bytes, {file.size} were installed"
            if not full and file.mtime_ns and status.st_mtime_ns == file.mtime_ns:
                return ""
            return "" if sha256_file(path) == file.sha256 else "sha256 is not the recorded one"
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    def check(self, *, full: bool = False) -> None:
        """Raise a ModelError unless every file is the one that was installed."""
        for name in self.files:
            if problem := self.problem(name, full=full):
                remedy = f"`virnucpro models fetch {self.folder.name}` or `virnucpro models import`"
                raise ModelError(f"{self.folder / name}: {problem}; {remedy} brings it back")

    def encoder_spec(self, entry: EncoderEntry) -> EncoderSpec:
        """An encoder whose weights lie in this folder: one part of it, or all of it."""
        hashes = {name: file.sha256 for name, file in self.files.items()}
        name, sha256 = self.name, digest_of(hashes)
        if self.model:
            name, sha256 = f"{name}-{Path(entry.file).stem}", hashes[entry.file]
        path = self.folder / entry.file
        return EncoderSpec(kind=entry.kind, name=name, path=path, sha256=sha256, dim=entry.dim)


def write_manifest(folder: Path, names: Iterable[str], **said: Any) -> Manifest:
    """Hash the files of a folder, and write its manifest; a ModelError if one is no plain file.

    `said` are name, source, revision, licence, and `encoder` or `model`.
    """
    files = {}
    for name in sorted(names):
        path = folder / name
        if path.is_symlink() or not path.is_file() or not is_plain_name(name):
            raise ModelError(f"{path}: only plain files belong into a model folder")
        status = path.stat()
        time = status.st_mtime_ns if "encoder" in said else 0
        files[name] = {"sha256": sha256_file(path), "size": status.st_size, "mtime_ns": time}
    value = {"format": FORMAT, **said, "files": files}
    manifest = _built(folder, value)
    write_json(folder / MANIFEST, value)
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none; a ModelError if it is damaged."""
    path = folder / MANIFEST
    try:
        is_there = path.exists()
        if not is_there and not (folder / _OLD_RECORD).exists():
            return None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    value = read_json(path) if is_there else {}
    if value.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: described by another version of virnucpro (no {MANIFEST} of format "
            f"{FORMAT}); remove the folder and fetch or import it again, or run `virnucpro train` "
            "again, which finds its run directory"
        )
    return _built(folder, value)


def _built(folder: Path, value: dict[str, Any]) -> Manifest:
    try:
        return build(Manifest, value | {"folder": str(folder)}, str(folder / MANIFEST))
    except ConfigError as error:
        raise ModelError(f"{error} (not a valid description)") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that lies beside weights; a ModelError if there is none."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError("over 16 MiB")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}, not an object")
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: damaged ({error!s:.200}); install the model again") from error
    return content


def _must(holds: object, what: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{what} {value!r:.80}")
