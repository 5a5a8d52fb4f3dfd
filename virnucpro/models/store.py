"""The model home: published encoders in `encoders/NAME/`, models in `NAME/`; which a run uses.

`model.json` is written last: a folder that has one is whole, and its files match it ever after.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from virnucpro.core.config import MODEL_TYPES, build
from virnucpro.core.errors import ConfigError, ModelError, OutputError
from virnucpro.core.files import digest_of, sha256_file, write_json
from virnucpro.models import specs
from virnucpro.models.classifier_file import PUBLISHED_KIND, read_classifier
from virnucpro.models.specs import ESM2_SIZES, EncoderKind, EncoderSpec, ModelSpec, is_plain_name
from virnucpro.sequences.orfs import OrfPolicy

BUNDLED = Path(__file__).parent / "mini"
CLASSIFIER_FILE = "classifier.safetensors"
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


def resolve_model(model_type: str, model_path: Path | None, home: Path) -> ModelSpec:
    """Find a model, one of MODEL_TYPES, and check its files; a ModelError says how to get it.

    `model_path` is, for `custom`, a model directory, the name of an installed model, or a
    classifier file for the published encoders, as for `300` and `500`.
    """
    if model_type == "mini":
        return load_model(model_path or BUNDLED, home)
    if model_type == "custom":
        if model_path is None:
            raise ModelError("a custom model needs --model-path: a model directory or a classifier")
        if not model_path.exists() and is_plain_name(str(model_path)):
            model_path = home / model_path
        if model_path.is_dir():
            return load_model(model_path, home)
        if not model_path.is_file():
            raise ModelError(f"{model_path}: no such model; `virnucpro models list` shows them")
    elif model_type not in specs.CLASSIFIERS:
        raise ModelError(f"{model_type}: no such model; one of {', '.join(MODEL_TYPES)}")
    if model_path is not None:
        read_classifier(model_path)  # first: a file that is none needs no encoder
        return _published_pair(model_type, model_path, sha256_file(model_path), home)
    if read_manifest(home / model_type) is None:
        fetch, file = f"models fetch {model_type}", specs.CLASSIFIERS[model_type][0]
        raise ModelError(
            f"model {model_type} is not installed in {home}: `virnucpro {fetch}` downloads it with "
            f"its encoders, `virnucpro models import {file} --name {model_type}` takes a local file"
        )
    return load_model(home / model_type, home)


def base_model(name: str, home: Path) -> ModelSpec:
    """Encoders, chunk length and ORF policy to train a classifier for, of any model's name."""
    if name in specs.CLASSIFIERS:
        return _published_pair(name, Path(CLASSIFIER_FILE), "", home)
    return resolve_model("custom", BUNDLED if name == "mini" else Path(name), home)


def _published_pair(name: str, classifier: Path, sha256: str, home: Path) -> ModelSpec:
    """The published encoders with a classifier file, which need not be installed."""
    encoders = (specs.DNA_ENCODER, specs.PROTEIN_ENCODER)
    dna, protein = (find_encoder(encoder, home) for encoder in encoders)
    return ModelSpec(
        name=name, dna=dna, protein=protein, classifier=classifier, classifier_sha256=sha256,
        orf_policy=OrfPolicy("open-frame"), chunk_nt=specs.CHUNK_NT.get(name, 500),
    )  # fmt: skip


def load_model(folder: Path, home: Path) -> ModelSpec:
    """The model in a folder; its encoders may be installed ones. Raises as `resolve_model`."""
    manifest = model_in(folder)
    manifest.check()
    parts, files = manifest.model, manifest.files
    assert parts
    dna, protein = (
        find_encoder(entry.installed, home) if entry.installed else manifest.encoder_spec(entry)
        for entry in (parts.dna, parts.protein)
    )
    return ModelSpec(
        name=manifest.name, dna=dna, protein=protein, groups=parts.groups,
        classifier=folder / parts.classifier, classifier_sha256=files[parts.classifier].sha256,
        orf_policy=parts.orf_policy, chunk_nt=parts.chunk_nt,
        calibration=folder / parts.calibration if parts.calibration else None,
        calibration_sha256=files[parts.calibration].sha256 if parts.calibration else "",
    )  # fmt: skip


def model_in(folder: Path) -> Manifest:
    """The manifest of a folder that holds a model; a ModelError if it holds none."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest.model:
        raise ModelError(f"{folder}: holds no model ({MANIFEST})")
    return manifest


def find_encoder(name: str, home: Path) -> EncoderSpec:
    """An installed encoder; files whose size and time of change are as recorded are not hashed."""
    manifest = read_manifest(home / "encoders" / name) if is_plain_name(name) else None
    if manifest is None or not manifest.encoder:
        raise ModelError(
            f"encoder {name} is not installed in {home}: `virnucpro models fetch {name}` "
            f"downloads it, `virnucpro models import DIR --name {name}` takes local files"
        )
    manifest.check()
    return manifest.encoder_spec(manifest.encoder)


def list_models(home: Path) -> list[Manifest]:
    """Everything that is installed in a home, encoders first."""
    try:
        inside = [
            folder
            for parent in (home / "encoders", home)
            for folder in (sorted(parent.iterdir()) if parent.is_dir() else [])
            if folder.name[0] != "." and folder.is_dir()
        ]
    except OSError as error:
        remedy = "VIRNUCPRO_MODEL_DIR names another place"
        raise ModelError(f"{home}: cannot be read ({error.strerror}); {remedy}") from error
    return [manifest for folder in inside if (manifest := read_manifest(folder))]


def install_classifier(
    source: Path, name: str, home: Path, origin: str, revision: str = ""
) -> Manifest:
    """Convert a classifier for the published encoders to safetensors, and install it as a model."""
    kind, tensors = read_classifier(source)
    if kind != PUBLISHED_KIND:
        raise ModelError(f"{source}: a classifier of the kind {kind!r:.40}; import its folder")
    return _install(
        home / name, {CLASSIFIER_FILE: save(dict(tensors), metadata={"kind": kind})},
        name=name, source=f"{origin} (sha256 {sha256_file(source)})", revision=revision,
        licence=specs.CLASSIFIER_LICENCE if name in specs.CLASSIFIERS else "not stated",
        model={
            "dna": {"installed": specs.DNA_ENCODER},
            "protein": {"installed": specs.PROTEIN_ENCODER},
            "classifier": CLASSIFIER_FILE, "calibration": "", "groups": [],
            "orf_policy": {"name": "open-frame", "keep": 6},
            "chunk_nt": specs.CHUNK_NT.get(name, 500),
        },
    )  # fmt: skip


def install_local(
    source: Path,
    name: str,
    home: Path,
    prove: Callable[[EncoderSpec | ModelSpec], None] = lambda spec: None,
) -> Manifest:
    """Install our model directory, a published encoder or a classifier; `prove` may refuse it."""
    if not is_plain_name(name) or name in ("mini", "encoders", "custom"):
        raise ModelError(f"{name!r:.200} cannot be the name of an installed model")
    if name in specs.ENCODERS or name in ESM2_SIZES:
        file, names = "", []
        if source.is_dir():
            names = specs.needed_files(path.name for path in source.iterdir())
        elif source.suffix == ".pt" and name in ESM2_SIZES:
            file, names, source = source.name, [source.name], source.parent
        if not names:
            raise ModelError(f"{source}: holds no weights of {name} in a published layout")
        said = describe_encoder(source, name, file)
        kind, dim = said["encoder"]["kind"], said["encoder"]["dim"]
        prove(EncoderSpec(kind=kind, name=name, path=source / file, sha256="", dim=dim))
        said |= {"source": f"local files of {source.name}", "revision": ""}
        return _install(home / "encoders" / name, {one: source / one for one in names}, **said)
    if not source.is_dir():
        return install_classifier(source, name, home, source.name)
    prove(load_model(source, home))
    given = read_json(source / MANIFEST)
    said = {key: given[key] for key in ("name", "source", "revision", "licence", "model")}
    return _install(home / name, {one: source / one for one in given["files"]}, **said)


def describe_encoder(folder: Path, name: str, file: str = "") -> dict[str, Any]:
    """What a manifest says of a published encoder: name, licence, kind and width."""
    dim = ESM2_SIZES[name].dim if file else read_json(folder / "config.json").get("hidden_size")
    if type(dim) is not int or dim < 1:
        raise ModelError(f"{folder / 'config.json'}: gives no width (hidden_size {dim!r:.80})")
    kind = "dnabert" if name == specs.DNA_ENCODER else "esm2"
    _, licence = specs.ENCODERS.get(name, ("", "MIT"))
    encoder = {"kind": kind, "dim": dim, "file": file}
    return {"name": name, "licence": licence, "encoder": encoder}


def _install(folder: Path, files: Mapping[str, Path | bytes], **said: Any) -> Manifest:
    """Put files into a folder beside the final one, write its manifest, give it its name."""
    if read_manifest(folder):
        raise ModelError(f"{folder}: already installed; remove the folder to replace it")
    partial = folder.parent / f".installing-{folder.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, given in files.items():
            if isinstance(given, bytes):
                (partial / name).write_bytes(given)
            else:
                shutil.copyfile(given, partial / name)
        manifest = write_manifest(partial, files, **said)
        partial.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder}: could not be installed ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(manifest, folder=folder)
