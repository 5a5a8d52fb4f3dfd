"""Models are found by name, and only as they were installed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_published import WIDTH, classifier_state, install_published, write_classifier, write_dna

from virnucpro.core.errors import ModelError, OutputError
from virnucpro.models import store
from virnucpro.models.store import (
    MANIFEST,
    install_local,
    list_models,
    read_manifest,
    resolve_model,
    write_manifest,
)
from virnucpro.sequences.orfs import OrfPolicy


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    return install_published(folder / "home", folder / "sources")


@pytest.fixture
def home(installed_once, tmp_path):
    return shutil.copytree(installed_once, tmp_path / "home")  # keeps times of change


def test_every_file_that_decides_a_score_is_in_the_digest(home, tmp_path):
    digest = resolve_model("500", None, home).digest
    changed = write_dna(tmp_path / "dna")
    config = json.loads((changed / "config.json").read_text()) | {"layer_norm_eps": 1e-6}
    (changed / "config.json").write_text(json.dumps(config))
    shutil.rmtree(home / "encoders" / "DNABERT-S")
    install_local(changed, "DNABERT-S", home)
    assert resolve_model("500", None, home).digest != digest


@pytest.mark.parametrize("name", ["300", "500", "esm2_t36_3B_UR50D"])
def test_what_is_missing_is_named_with_the_remedy(home, name):
    shutil.rmtree(home / ("500" if name == "500" else f"encoders/{name}"), ignore_errors=True)
    with pytest.raises(ModelError, match=f"virnucpro models fetch {name}") as caught:
        resolve_model("300" if name == "300" else "500", None, home)
    assert caught.value.exit_code == 4
    path = f"{name}_model.pth" if name in ("300", "500") else "DIR"
    assert f"virnucpro models import {path} --name {name}" in str(caught.value)


@pytest.mark.parametrize(
    "file", ["encoders/DNABERT-S/pytorch_model.bin", "500/classifier.safetensors"]
)
@pytest.mark.parametrize("damage", ["size", "content", "gone", "kept time"])
def test_a_changed_file_is_not_used(home, file, damage):
    """Gigabytes are hashed only where their time of change differs; `check(full=True)` always."""
    path = home / file
    data, times = path.read_bytes(), path.stat().st_mtime_ns
    os.utime(path, ns=(1, 1))  # a copied home works
    assert resolve_model("500", None, home).name == "500"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data + b"x" if damage == "size" else data[::-1])
    if damage == "kept time":
        os.utime(path, ns=(times, times))
    with pytest.raises(ModelError, match=r"bytes|sha256|cannot be read") as caught:
        read_manifest(path.parent).check(full=True)
    assert str(path) in str(caught.value)
    if damage == "kept time" and file.startswith("encoders"):
        read_manifest(path.parent).check()
    else:
        with pytest.raises(ModelError, match=r"bytes|sha256|cannot be read"):
            resolve_model("500", None, home)


@pytest.mark.parametrize("form", ["pth", "safetensors", "500", "installed"])
def test_a_custom_classifier_runs_with_the_published_encoders(home, tmp_path, form):
    path = tmp_path / "classifier.safetensors"
    if form == "pth":
        path = write_classifier(tmp_path / "model.pth")
    else:
        save_file({name: tensor.numpy() for name, tensor in classifier_state().items()}, path)
    if form == "500":
        spec = resolve_model("500", path, home)
        assert spec.digest == resolve_model("500", path, home).digest
    elif form == "installed":
        install_local(path, "mine", home)
        spec = resolve_model("custom", Path("mine"), home)
    else:
        spec = resolve_model("custom", path, home)
        assert (spec.classifier, spec.name) == (path, "custom")
    assert (spec.dim, spec.chunk_nt, spec.orf_policy) == (WIDTH, 500, OrfPolicy("open-frame"))


@pytest.mark.parametrize(("name", "message"), [("in.fa", r"in\.fa"), ("none", "no such model")])
def test_what_is_no_classifier_is_told_before_encoders_are_asked_for(put, tmp_path, name, message):
    put(">a\nACGT\n")
    with pytest.raises(ModelError, match=message) as caught:
        resolve_model("custom", tmp_path / name, tmp_path / "nothing")
    assert "DNABERT-S" not in str(caught.value)


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    names = [f"{name}.safetensors" for name in ("dna", "protein", "classifier")]
    for name in names:
        save_file({"w": np.zeros(3, np.float32)}, folder / name)
    write_manifest(
        folder, names, name="own", source="test", revision="", licence="MIT",
        model={
            "dna": {"kind": "mini-dna", "file": names[0], "dim": 8},
            "protein": {"kind": "mini-protein", "file": names[1], "dim": 16},
            "classifier": names[2], "calibration": "",
            "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": 400, "groups": [],
        },
    )  # fmt: skip
    return folder


def test_a_model_directory_says_all_that_decides_scores_and_can_be_installed(own, tmp_path):
    home = tmp_path / "home"
    spec = resolve_model("custom", own, home)
    assert (spec.name, spec.dim, spec.chunk_nt) == ("own", 24, 400)
    assert (spec.orf_policy, spec.dna.path) == (OrfPolicy("longest", 1), own / "dna.safetensors")
    record = install_local(own, "mine", home)
    assert (record.kind, record.licence, record.folder.name) == ("model", "MIT", "mine")
    shutil.rmtree(own)
    assert resolve_model("custom", Path("mine"), home).digest == spec.digest
    with pytest.raises(ModelError, match="--model-path"):
        resolve_model("custom", None, home)


ENCODER = {"kind": "mini-dna", "file": "dna.safetensors", "dim": 8}
FILE = {"sha256": "0" * 64, "size": 1, "mtime_ns": 0}
CHANGES = [
    {"format": "2"}, {"name": "../x"}, {"licence": None}, {"more": 1}, {"files": {}},
    {"files": {"../../../etc/passwd": FILE}}, {"encoder": ENCODER}, {"model": None},
    {"files": {"dna.safetensors": FILE | {"sha256": "0"}}},
]  # fmt: skip
MODEL_CHANGES = [
    {"chunk_nt": 0}, {"chunk_nt": True}, {"orf_policy": {"name": "none", "keep": 1}},
    {"orf_policy": {"name": "longest", "keep": 9}}, {"dna": ENCODER | {"kind": "pickle"}},
    {"dna": ENCODER | {"file": "../dna.safetensors"}}, {"dna": ENCODER | {"dim": 10**9}},
    {"dna": ENCODER | {"installed": "x"}}, {"protein": {"installed": "../../etc"}},
    {"classifier": ""}, {"calibration": "absent.json"}, {"groups": "abc"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "change"),
    [*((None, change) for change in CHANGES), *(("model", change) for change in MODEL_CHANGES)],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_description_that_is_not_valid_is_refused(own, tmp_path, place, change):
    path = own / MANIFEST
    value = json.loads(path.read_text())
    (value[place] if place else value).update(change)
    path.write_text(json.dumps(value))
    with pytest.raises(ModelError):
        resolve_model("custom", own, tmp_path)


@pytest.mark.parametrize("form", ["record alone", "both", "description alone"])
def test_what_an_older_version_installed_is_told_with_its_remedy(home, form):
    folder = home / "500"
    (folder / MANIFEST).unlink()
    if form != "description alone":
        (folder / "installed.json").write_text('{"format": 1, "name": "500"}')
    if form != "record alone":
        (folder / MANIFEST).write_text('{"format": 1, "name": "500"}')
    for use in (lambda: resolve_model("500", None, home), lambda: list_models(home)):
        with pytest.raises(ModelError, match=r"another version.*remove the folder and fetch or"):
            use()


def test_nothing_is_overwritten_and_odd_names_are_refused(home, tmp_path):
    path = write_classifier(tmp_path / "model.pth")
    with pytest.raises(ModelError, match="already installed"):
        install_local(path, "500", home)
    for name in ("../x", "a/b", ".hidden", "", "mini", "encoders"):
        with pytest.raises(ModelError, match="cannot be the name"):
            install_local(path, name, home)


def test_a_failed_install_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "bad.pth").write_bytes(b"PK not really")
    with pytest.raises(ModelError):
        install_local(tmp_path / "bad.pth", "500", tmp_path / "home")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left"):
        install_local(write_dna(tmp_path / "dna"), "DNABERT-S", tmp_path / "home")
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []
