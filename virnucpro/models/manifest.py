"""`model.json`: what lies in a model folder, where it came from, and what it is for.

Every folder with weights has one, of one form: the bundled model, a trained one, an installed
classifier, an installed encoder. It is written last, so a folder that has one is whole, and its
files must match it ever after. Every key is there, and no other:

    {"format": 2, "name": "mini", "source": "virnucpro train ...", "revision": "", "licence": "MIT",
     "files": {"dna.safetensors": {"sha256": "...", "size": 1234, "mtime_ns": 0}, ...},
     "model": {"dna": {"kind": "mini-dna", "dim": 1024, "file": "dna.safetensors"},
               "protein": {"installed": "esm2_t36_3B_UR50D"},
               "classifier": "classifier.safetensors", "calibration": "calibration.json" or "",
               "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": 500, "groups": [...]}}

`mtime_ns` stands for the hash of files that are too large to be hashed for every run; 0 where
they are not. An encoder's folder has `encoder` in place of `model`: an entry like `dna` above,
whose `file` is empty where the weights are a folder in a published layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from virnucpro.core.errors import ModelError
from virnucpro.core.files import digest_of, sha256_file, write_json
from virnucpro.models.specs import EncoderKind, EncoderSpec, ModelSpec
from virnucpro.sequences.orfs import OrfPolicy

MANIFEST = "model.json"
FORMAT = 2
_OLD_RECORD = "installed.json"
_MAX_JSON_BYTES = 1 << 24
_MOST_DIM, _MOST_CHUNK_NT = 1 << 16, 1_000_000
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_TOP = {"format": int, "name": str, "source": str, "revision": str, "licence": str, "files": dict}
_FILE = {"sha256": str, "size": int, "mtime_ns": int}
_ENCODER = {"kind": str, "dim": int, "file": str}
_MODEL = {"dna": dict, "protein": dict, "classifier": str, "calibration": str,
          "orf_policy": dict, "chunk_nt": int, "groups": list}  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as it was installed: hexadecimal SHA-256, bytes, and time of change (ns; 0: none)."""

    sha256: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A model folder.

    Attributes:
        folder: where the files lie.
        name: its own; installed, it is called by the name of its folder.
        kind: `encoder` or `model`.
        source: repository, URL or local path that it came from.
        revision: commit of the source, 40 hexadecimal digits; empty for local files.
        licence: of the weights.
        files: all that are used, by plain name.
        entry: what `encoder` or `model` says.
    """

    folder: Path
    name: str
    kind: str
    source: str
    revision: str
    licence: str
    files: Mapping[str, FileEntry]
    entry: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def problem(self, name: str, *, full: bool) -> str:
        """What is wrong with a file, in words; empty if nothing.

        Args:
            name: of the file.
            full: hash it even if its time of change is as recorded.
        """
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
        """Check that every file is the one that was installed.

        Raises:
            ModelError: a file is missing or is not the recorded one.
        """
        for name in self.files:
            if problem := self.problem(name, full=full):
                raise ModelError(
                    f"{self.folder / name}: {problem}; `virnucpro models fetch {self.folder.name}` "
                    "or `virnucpro models import` brings it back"
                )

    def encoder_spec(self) -> EncoderSpec:
        """What the folder of an encoder holds."""
        return self._encoder(self.name, self.entry, digest_of(
            {name: file.sha256 for name, file in self.files.items()}
        ))  # fmt: skip

    def model_spec(self, installed_encoder: Callable[[str], EncoderSpec]) -> ModelSpec:
        """What the folder of a model holds; `installed_encoder` finds those that lie elsewhere."""
        slots = {}
        for slot in ("dna", "protein"):
            entry = self.entry[slot]
            if "installed" in entry:
                slots[slot] = installed_encoder(entry["installed"])
            else:
                file = entry["file"]
                name = f"{self.name}-{Path(file).stem}"
                slots[slot] = self._encoder(name, entry, self.files[file].sha256)
        classifier, calibration = self.entry["classifier"], self.entry["calibration"]
        return ModelSpec(
            name=self.name,
            classifier=self.folder / classifier,
            classifier_sha256=self.files[classifier].sha256,
            orf_policy=OrfPolicy(**self.entry["orf_policy"]),
            chunk_nt=self.entry["chunk_nt"],
            calibration=self.folder / calibration if calibration else None,
            calibration_sha256=self.files[calibration].sha256 if calibration else "",
            groups=tuple(self.entry["groups"]),
            **slots,
        )

    def _encoder(self, name: str, entry: Mapping[str, Any], sha256: str) -> EncoderSpec:
        path = self.folder / entry["file"] if entry["file"] else self.folder
        return EncoderSpec(
            kind=entry["kind"], name=name, path=path, sha256=sha256, dim=entry["dim"]
        )


def is_plain_name(name: object) -> bool:
    """Whether a name can only mean a file right inside a folder.

    >>> [is_plain_name(name) for name in ("model.safetensors", "../x", ".x", "a/b", "")]
    [True, False, False, False, False]
    """
    return isinstance(name, str) and _PLAIN_NAME.fullmatch(name) is not None


def write_manifest(folder: Path, names: Iterable[str], **said: Any) -> Manifest:
    """Hash the files of a folder, and write its manifest.

    Args:
        folder: where they lie.
        names: those that are used.
        said: name, source, revision, licence, and `encoder` or `model`.

    Raises:
        ModelError: one is no plain file, or `said` is no description.
        OutputError: it cannot be written.
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
    manifest = _checked(folder, value)
    write_json(folder / MANIFEST, value)
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder; None where there is none.

    Raises:
        ModelError: it is damaged, or of another version of the program.
    """
    path = folder / MANIFEST
    try:
        if not path.exists() and not (folder / _OLD_RECORD).exists():
            return None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    value = read_json(path) if path.exists() else {}
    if value.get("format") != FORMAT:
        raise ModelError(
            f"{folder}: described by another version of virnucpro (no {MANIFEST} of format "
            f"{FORMAT}); remove the folder and fetch or import it again, or run `virnucpro train` "
            "again, which finds its run directory"
        )
    return _checked(folder, value)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file that lies beside weights.

    Raises:
        ModelError: the file is missing, damaged, over 16 MiB, or holds something else.
    """
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


def _checked(folder: Path, value: dict[str, Any]) -> Manifest:
    """The manifest that a JSON object is: every key known, typed and in range."""
    kind = "encoder" if "encoder" in value else "model"
    try:
        _fields(value, {**_TOP, kind: dict}, "model.json")
        for name, file in value["files"].items():
            _fields(file, _FILE, name)
            _must(is_plain_name(name) and _SHA256.fullmatch(file["sha256"]), "file", name)
        _must(is_plain_name(value["name"]), "name", value["name"])
        entry = value[kind]
        if kind == "encoder":
            _check_encoder(entry, value["files"], may_be_folder=True)
        else:
            _check_model(entry, value["files"])
        files = {name: FileEntry(**file) for name, file in value["files"].items()}
        texts = {key: value[key] for key in ("name", "source", "revision", "licence")}
        return Manifest(folder=folder, kind=kind, files=files, entry=entry, **texts)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / MANIFEST}: not a valid description ({error!s:.200})"
        ) from error


def _check_model(entry: dict[str, Any], files: Mapping[str, Any]) -> None:
    _fields(entry, _MODEL, "model")
    _must(all(type(group) is str for group in entry["groups"]), "groups", entry["groups"])
    for slot in (entry["dna"], entry["protein"]):
        if slot.keys() == {"installed"}:
            _must(is_plain_name(slot["installed"]), "installed", slot["installed"])
        else:
            _check_encoder(slot, files, may_be_folder=False)
    for name in (entry["classifier"], *filter(None, [entry["calibration"]])):
        _must(name in files, "a file that is not listed:", name)
    _must(1 <= entry["chunk_nt"] <= _MOST_CHUNK_NT, "chunk_nt", entry["chunk_nt"])
    _fields(entry["orf_policy"], {"name": str, "keep": int}, "orf_policy")
    OrfPolicy(**entry["orf_policy"])


def _check_encoder(entry: Any, files: Mapping[str, Any], *, may_be_folder: bool) -> None:
    _fields(entry, _ENCODER, "encoder")
    _must(entry["kind"] in get_args(EncoderKind), "encoder kind", entry["kind"])
    _must(1 <= entry["dim"] <= _MOST_DIM, "dim", entry["dim"])
    is_folder = may_be_folder and entry["file"] == ""
    _must(is_folder or entry["file"] in files, "a file that is not listed:", entry["file"])


def _fields(value: Any, kinds: Mapping[str, type], what: str) -> None:
    """Refuse what is not an object of just these keys, each of just this type."""
    if type(value) is not dict or value.keys() != kinds.keys():
        raise ValueError(f"{what} must have the keys {', '.join(kinds)}")
    for key, kind in kinds.items():
        _must(type(value[key]) is kind, f"{what}: {key}", value[key])


def _must(holds: Any, what: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{what} {value!r:.80}")
