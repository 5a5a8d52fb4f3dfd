"""The model home: what is installed, and which model a run uses.

It holds, each with its manifest, `encoders/NAME/`, published encoders in their published files, and
`500/`, `300/`, `NAME/`, models: classifiers for those encoders, or models of ours.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.numpy import save

from virnucpro.core.config import MODEL_TYPES
from virnucpro.core.errors import ModelError, OutputError
from virnucpro.core.files import sha256_file
from virnucpro.models import specs
from virnucpro.models.classifier_file import PUBLISHED_KIND, read_classifier
from virnucpro.models.manifest import MANIFEST, Manifest, read_json, read_manifest, write_manifest
from virnucpro.models.specs import ESM2_SIZES, EncoderSpec, ModelSpec, is_plain_name
from virnucpro.sequences.orfs import OrfPolicy

BUNDLED = Path(__file__).parent / "mini"
CLASSIFIER_FILE = "classifier.safetensors"


def resolve_model(model_type: str, model_path: Path | None, home: Path) -> ModelSpec:
    """Find a model, one of MODEL_TYPES, and check that its files are the installed ones.

    `model_path` is, for `custom`, a model directory, the name of an installed model, or a
    classifier file for the published encoders; for `300` and `500` a classifier file in place
    of the installed one. A ModelError says how to get what is missing.
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
    """Install a model directory of ours, an encoder in a published layout, or a classifier file.

    `prove` is given what is about to be installed, and raises `ModelError` if that is bad.
    """
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
