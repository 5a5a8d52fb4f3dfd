"""The model home: what is installed, and which model a run uses.

Room 4 (batch -> one vector per ORF). A home holds

    encoders/DNABERT-S/            published encoders, in their published files
    encoders/esm2_t36_3B_UR50D/
    500/  300/                     classifier.safetensors of the published models
    NAME/                          a model directory of ours (`model_json`)
    .partial/                      downloads that are not whole

and each folder its `installed.json`. The bundled model lies in the package.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from virnucpro.core.config import MODEL_TYPES
from virnucpro.core.errors import ModelError, OutputError
from virnucpro.core.files import sha256_file
from virnucpro.core.text import clipped, shown
from virnucpro.models.classifier_file import import_classifier
from virnucpro.models.installed import (
    RECORD_NAME,
    Installed,
    check_installed,
    is_plain_name,
    read_record,
    record_folder,
)
from virnucpro.models.json_file import read_json
from virnucpro.models.model_json import MODEL_FILE, load_model_folder, read_model_json
from virnucpro.models.published import (
    CLASSIFIER_LICENCE,
    CLASSIFIERS,
    DNA_ENCODER,
    ENCODERS,
    PROTEIN_ENCODER,
    needed_files,
)
from virnucpro.models.specs import ESM2_SIZES, EncoderSpec, ModelSpec
from virnucpro.sequences.orfs import OrfPolicy

BUNDLED = Path(__file__).parent / "mini"
CLASSIFIER_FILE = "classifier.safetensors"
CUSTOM_CHUNK_NT = 500


def resolve_model(model_type: str, model_path: Path | None, home: Path) -> ModelSpec:
    """Find a model and check that its files are the ones that were installed.

    Files whose size and time of change are as recorded are taken as such; `check_installed`
    hashes them all.

    Args:
        model_type: `mini`, `300`, `500` or `custom`.
        model_path: for `custom` a model directory, the name of an installed model, or a
            classifier file for the published encoders; for `300` and `500` a classifier file
            in place of the installed one.
        home: the model home.

    Raises:
        ModelError: something is missing (says how to get it) or not what was installed.
    """
    if model_type == "mini":
        return load_folder(model_path or BUNDLED, home)
    if model_type in CLASSIFIERS:
        classifier = model_path or _installed_classifier(model_type, home)
        return _published(model_type, classifier, CLASSIFIERS[model_type].chunk_nt, home)
    if model_type != "custom":
        raise ModelError(f"{clipped(model_type)}: no such model; one of {', '.join(MODEL_TYPES)}")
    if model_path is None:
        raise ModelError("a custom model needs --model-path: a model directory or a classifier")
    if not model_path.exists() and is_plain_name(str(model_path)):
        model_path = home / model_path
    if model_path.is_dir():
        if (model_path / MODEL_FILE).is_file():
            return load_folder(model_path, home)
        model_path = model_path / CLASSIFIER_FILE
    if not model_path.is_file():
        raise ModelError(f"{model_path}: no such model; `virnucpro models list` shows them")
    return _published("custom", model_path, CUSTOM_CHUNK_NT, home)


def load_folder(folder: Path, home: Path) -> ModelSpec:
    """A model directory of ours; its encoders may be installed ones.

    Raises:
        ModelError: as `resolve_model`.
    """
    installed = read_record(folder)
    if installed:
        check_installed(installed)
    return load_model_folder(folder, lambda name: find_encoder(name, home))


def find_encoder(name: str, home: Path) -> EncoderSpec:
    """An installed encoder.

    Raises:
        ModelError: as `resolve_model`.
    """
    folder = home / "encoders" / name
    installed = read_record(folder) if is_plain_name(name) else None
    if installed is None:
        raise ModelError(
            f"encoder {name} is not installed in {home}: `virnucpro models fetch {name}` "
            f"downloads it, `virnucpro models import DIR --name {name}` takes local files"
        )
    check_installed(installed)
    kind = ENCODERS[name].kind if name in ENCODERS else "esm2"
    single = [file for file in installed.files if file.endswith(".pt")]
    return EncoderSpec(
        kind=kind,
        name=name,
        path=folder / single[0] if single else folder,
        sha256=installed.sha256,
        dim=ESM2_SIZES[name].dim if single else _hidden_size(folder),
    )


def list_models(home: Path) -> list[Installed]:
    """Everything that is installed in a home, by name; damaged records are errors.

    Raises:
        ModelError: a record, or the home, cannot be read.
    """
    try:
        folders = [*_subfolders(home / "encoders"), *_subfolders(home)]
    except OSError as error:
        raise ModelError(
            f"{home}: cannot be read ({error.strerror}); VIRNUCPRO_MODEL_DIR names another place"
        ) from error
    records = [read_record(folder) for folder in folders]
    return [record for record in records if record is not None]


def install_classifier(source: Path, name: str, home: Path, origin: tuple[str, str]) -> Installed:
    """Convert a published classifier to safetensors and record it.

    Args:
        source: `.pth` (never executed) or safetensors.
        name: folder of the home, such as `500`.
        home: the model home.
        origin: where it came from, and the revision there (may be empty).

    Raises:
        ModelError: the file is unsafe, damaged or no classifier.
        OutputError: the home cannot be written.
    """

    def fill(folder: Path) -> None:
        import_classifier(source, folder / CLASSIFIER_FILE)

    where, revision = f"{origin[0]} (sha256 {sha256_file(source)})", origin[1]
    licence = CLASSIFIER_LICENCE if name in CLASSIFIERS else "not stated"
    return _install(
        home / name, fill, kind="classifier", source=where, revision=revision, licence=licence
    )


def install_local(source: Path, name: str, home: Path) -> Installed:
    """Install from local files: a model directory of ours, an encoder, or a classifier.

    Args:
        source: directory with `model.json`; directory in a published layout, or fair-esm `.pt`,
            for the name of an encoder; else a classifier file.
        name: what to call it.
        home: the model home.

    Raises:
        ModelError: the files are not what `name` needs, or it is already installed otherwise.
        OutputError: the home cannot be written.
    """
    if not is_plain_name(name) or name in ("mini", "encoders", "custom"):
        raise ModelError(f"{shown(name)} cannot be the name of an installed model")
    if not source.exists():
        raise ModelError(f"{source}: no such file or directory")
    if name in ENCODERS or name in ESM2_SIZES:
        return _install_encoder(source, name, home)
    if source.is_dir():
        spec = load_folder(source, home)  # checks it
        listed = read_model_json(source)
        names = [MODEL_FILE, *listed["files"]]
        licence = str(listed.get("licence", "not stated"))
        kind, origin = "model", f"{listed.get('source', 'not stated')} ({spec.name})"
        return _install(
            home / name, _copy_of(source, names), kind=kind, source=origin, licence=licence
        )
    return install_classifier(source, name, home, (str(source.name), ""))


def _install_encoder(source: Path, name: str, home: Path) -> Installed:
    files = needed_files(path.name for path in source.iterdir()) if source.is_dir() else []
    if source.is_file() and source.suffix == ".pt" and name in ESM2_SIZES:
        source, files = source.parent, [source.name]
    if not files:
        raise ModelError(f"{source}: holds no weights of {name} in a published layout")
    licence = ENCODERS[name].licence if name in ENCODERS else "MIT"
    return _install(
        home / "encoders" / name, _copy_of(source, files),
        kind="encoder", source=f"local files of {source.name}", licence=licence,
    )  # fmt: skip


def _copy_of(source: Path, names: list[str]) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name in names:
            shutil.copyfile(source / name, folder / name)

    return fill


def _install(
    folder: Path, fill: Callable[[Path], None], *, kind: str, source: str, licence: str,
    revision: str = "",
) -> Installed:  # fmt: skip
    """Fill a folder beside the final one, record it, and give it its name."""
    if read_record(folder):
        raise ModelError(f"{folder}: already installed; remove the folder to replace it")
    partial = folder.parent / f".installing-{folder.name}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        fill(partial)
        installed = record_folder(
            partial, name=folder.name, kind=kind, source=source, revision=revision, licence=licence
        )
        partial.replace(folder)
    except OSError as error:
        raise OutputError(f"{folder}: could not be installed ({error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return replace(installed, folder=folder)


def _published(name: str, classifier: Path, chunk_nt: int, home: Path) -> ModelSpec:
    """The published encoders with a classifier."""
    classifier = _converted(classifier, home)  # first: a file that is none needs no encoder
    dna, protein = (find_encoder(encoder, home) for encoder in (DNA_ENCODER, PROTEIN_ENCODER))
    return ModelSpec(
        name=name,
        dna=dna,
        protein=protein,
        classifier=classifier,
        classifier_sha256=sha256_file(classifier),
        orf_policy=OrfPolicy("open-frame"),
        chunk_nt=chunk_nt,
    )


def _converted(classifier: Path, home: Path) -> Path:
    """The classifier as checked safetensors; a pickled one is converted into the home once."""
    if not classifier.is_file():
        raise ModelError(f"{classifier}: no such file")
    if classifier.suffix == ".safetensors":
        return classifier
    folder = home / "converted"
    target = folder / f"{sha256_file(classifier)}.safetensors"
    if not target.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
        import_classifier(classifier, target)
    return target


def _installed_classifier(name: str, home: Path) -> Path:
    folder = home / name
    installed = read_record(folder)
    if installed is None:
        raise ModelError(
            f"model {name} is not installed in {home}: `virnucpro models fetch {name}` downloads "
            f"it with its encoders, `virnucpro models import {CLASSIFIERS[name].file} "
            f"--name {name}` takes a local file"
        )
    check_installed(installed)
    return folder / CLASSIFIER_FILE


def _subfolders(folder: Path) -> list[Path]:
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [one for one in inside if one.name[0] != "." and (one / RECORD_NAME).is_file()]


def _hidden_size(folder: Path) -> int:
    path = folder / "config.json"
    value = read_json(path).get("hidden_size")
    if type(value) is not int or value < 1:
        raise ModelError(f"{path}: gives no width (hidden_size {shown(value)})")
    return value
