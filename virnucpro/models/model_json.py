"""Our own model directories: `model.json` beside safetensors.

Room 4 (batch -> one vector per ORF). The file says everything that decides a score:

    {"format": 1, "name": "mini", "licence": "MIT", "source": "virnucpro train ...",
     "dna":     {"kind": "mini-dna", "file": "dna.safetensors", "config": {"dim": 128, ...}},
     "protein": {"model": "esm2_t36_3B_UR50D"},
     "classifier": {"kind": "mini", "file": "classifier.safetensors"},
     "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": 500,
     "calibration": "calibration.json" or null,
     "files": {"dna.safetensors": "<sha256>", ...}}

An encoder is either a file of the directory, whose `config` gives at least `dim`, or the name
of an installed encoder (`model`). `files` lists every file that is used, with its hash.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from virnucpro.core.errors import ModelError
from virnucpro.core.files import sha256_file
from virnucpro.core.text import clipped, shown
from virnucpro.models.installed import is_plain_name
from virnucpro.models.json_file import read_json
from virnucpro.models.specs import EncoderKind, EncoderSpec, ModelSpec
from virnucpro.sequences.orfs import OrfPolicy

MODEL_FILE = "model.json"
FORMAT = 1


def read_model_json(folder: Path) -> dict[str, Any]:
    """Read `model.json` as it stands.

    Raises:
        ModelError: missing, unreadable or of another format.
    """
    path = folder / MODEL_FILE
    value = read_json(path)
    if value.get("format") != FORMAT:
        raise ModelError(f"{path}: not a model description of format {FORMAT}")
    return value


def load_model_folder(folder: Path, installed_encoder: Callable[[str], EncoderSpec]) -> ModelSpec:
    """Check a model directory and say what it is.

    Args:
        folder: holds `model.json` and the files it lists.
        installed_encoder: finds an encoder of the model home by its name.

    Raises:
        ModelError: the description is not valid, or a file is missing or not the listed one.
    """
    value = read_model_json(folder)
    try:
        files = _checked_files(folder, value["files"])
        encoders = [
            _encoder(folder, value["name"], entry, files, installed_encoder)
            for entry in (value["dna"], value["protein"])
        ]
        classifier = _listed(value["classifier"]["file"], files)
        calibration = value.get("calibration")
        spec = ModelSpec(
            name=_text(value["name"]),
            dna=encoders[0],
            protein=encoders[1],
            classifier=folder / classifier,
            classifier_sha256=files[classifier],
            orf_policy=OrfPolicy(value["orf_policy"]["name"], value["orf_policy"]["keep"]),
            chunk_nt=_positive(value["chunk_nt"]),
            calibration=folder / _listed(calibration, files) if calibration else None,
            calibration_sha256=files[calibration] if calibration else "",
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"{type(error).__name__}: {clipped(error)}"
        raise ModelError(f"{folder / MODEL_FILE}: not a valid description ({problem})") from error
    return spec


def _encoder(
    folder: Path, model: str, entry: dict[str, Any], files: dict[str, str],
    installed_encoder: Callable[[str], EncoderSpec],
) -> EncoderSpec:  # fmt: skip
    if "model" in entry:
        return installed_encoder(_text(entry["model"]))
    if entry["kind"] not in get_args(EncoderKind):
        raise ValueError(f"encoder kind {shown(entry['kind'])}")
    name = _listed(entry["file"], files)
    return EncoderSpec(
        kind=entry["kind"],
        name=f"{_text(model)}-{Path(name).stem}",
        path=folder / name,
        sha256=files[name],
        dim=_positive(entry["config"]["dim"]),
    )


def _checked_files(folder: Path, listed: dict[str, str]) -> dict[str, str]:
    for name, sha256 in listed.items():
        path = folder / name
        if not is_plain_name(name):
            raise ValueError(f"file name {shown(name)}")
        if not path.is_file():
            raise ModelError(f"{path}: missing; the model is not whole")
        if sha256_file(path) != sha256:
            raise ModelError(f"{path}: sha256 is not the one in {MODEL_FILE}")
    return listed


def _listed(name: Any, files: dict[str, str]) -> str:
    if name not in files:
        raise ValueError(f"{shown(name)} is not listed in `files`")
    return str(name)


def _text(value: Any) -> str:
    if not is_plain_name(value):
        raise ValueError(f"name {shown(value)}")
    return str(value)


def _positive(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 24:
        raise ValueError(f"number {shown(value)}")
    return value
