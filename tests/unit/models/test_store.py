"""Models are found by name, and only as they were installed."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_published import (
    DNA,
    PROTEIN,
    WIDTH,
    classifier_state,
    install_published,
    write_classifier,
    write_dna,
)

from virnucpro.core.errors import ModelError, OutputError
from virnucpro.core.files import sha256_file
from virnucpro.models import store
from virnucpro.models.installed import RECORD_NAME, check_installed, read_record
from virnucpro.models.store import install_local, list_models, resolve_model
from virnucpro.sequences.orfs import OrfPolicy


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    return install_published(folder / "home", folder / "sources")


@pytest.fixture
def home(installed_once, tmp_path):
    return shutil.copytree(installed_once, tmp_path / "home")  # keeps times of change


def test_500_is_the_published_pair_with_its_policy(home):
    spec = resolve_model("500", None, home)
    assert (spec.dna.kind, spec.dna.dim, spec.protein.kind, spec.protein.dim) == (
        "dnabert", DNA.dim, "esm2", PROTEIN.dim,
    )  # fmt: skip
    assert (spec.dim, spec.chunk_nt, spec.orf_policy) == (WIDTH, 500, OrfPolicy("open-frame"))
    assert pickle.loads(pickle.dumps(spec)).digest == spec.digest


def test_remote_code_is_not_installed(home):
    names = {path.name for path in (home / "encoders" / "DNABERT-S").iterdir()}
    assert names == {"config.json", "tokenizer.json", "pytorch_model.bin", RECORD_NAME}


def test_every_file_that_decides_a_score_is_in_the_digest(home, tmp_path):
    digest = resolve_model("500", None, home).digest
    changed = write_dna(tmp_path / "dna")
    config = json.loads((changed / "config.json").read_text()) | {"layer_norm_eps": 1e-6}
    (changed / "config.json").write_text(json.dumps(config))
    shutil.rmtree(home / "encoders" / "DNABERT-S")
    install_local(changed, "DNABERT-S", home)
    assert resolve_model("500", None, home).digest != digest


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"hidden_size": 0}', '{"hidden_size": true}'])
def test_an_encoder_that_does_not_say_its_width_is_refused(home, tmp_path, text):
    changed = write_dna(tmp_path / "dna")
    (changed / "config.json").write_text(text)
    shutil.rmtree(home / "encoders" / "DNABERT-S")
    install_local(changed, "DNABERT-S", home)
    with pytest.raises(ModelError, match=r"config\.json: (damaged|gives no width)"):
        resolve_model("500", None, home)


@pytest.mark.parametrize("name", ["300", "500"])
def test_what_is_missing_is_named_with_the_remedy(tmp_path, name):
    with pytest.raises(ModelError, match=f"virnucpro models fetch {name}") as caught:
        resolve_model(name, None, tmp_path)
    assert caught.value.exit_code == 4
    assert f"virnucpro models import {name}_model.pth --name {name}" in str(caught.value)


def test_a_missing_encoder_is_named(home):
    shutil.rmtree(home / "encoders" / "esm2_t36_3B_UR50D")
    with pytest.raises(ModelError, match="models fetch esm2_t36_3B_UR50D"):
        resolve_model("500", None, home)


@pytest.mark.parametrize("damage", ["size", "content", "gone"])
def test_a_changed_file_is_not_used(home, damage):
    weights = home / "encoders" / "DNABERT-S" / "pytorch_model.bin"
    data = weights.read_bytes()
    if damage == "gone":
        weights.unlink()
    else:
        weights.write_bytes(data + b"x" if damage == "size" else data[::-1])
    with pytest.raises(ModelError, match="DNABERT-S"):
        resolve_model("500", None, home)


def test_damage_that_keeps_size_and_time_is_found_by_the_full_check(home):
    weights = home / "encoders" / "DNABERT-S" / "pytorch_model.bin"
    times = weights.stat().st_mtime_ns
    weights.write_bytes(weights.read_bytes()[::-1])
    os.utime(weights, ns=(times, times))
    record = read_record(weights.parent)
    check_installed(record)
    with pytest.raises(ModelError, match="sha256"):
        check_installed(record, full=True)


def test_a_copied_home_works(home):
    os.utime(home / "encoders" / "DNABERT-S" / "config.json", ns=(1, 1))
    assert resolve_model("500", None, home).name == "500"


@pytest.mark.parametrize("form", ["pth", "safetensors", "folder"])
def test_a_custom_classifier_runs_with_the_published_encoders(home, tmp_path, form):
    if form == "pth":
        path = write_classifier(tmp_path / "model.pth")
    else:
        path = tmp_path / "classifier.safetensors"
        state = {name: tensor.numpy() for name, tensor in classifier_state().items()}
        save_file(state, path)
    spec = resolve_model("custom", tmp_path if form == "folder" else path, home)
    assert (spec.name, spec.dim) == ("custom", WIDTH)
    assert spec.classifier.suffix == ".safetensors"
    assert resolve_model("custom", path, home).digest == spec.digest


def test_a_hostile_custom_classifier_is_refused(home, tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(b"cposix\nsystem\n(X\x05\x00\x00\x00touchtR.")
    with pytest.raises(ModelError, match="refused"):
        resolve_model("custom", path, home)


def test_custom_needs_a_path_that_exists(home, tmp_path):
    with pytest.raises(ModelError, match="--model-path"):
        resolve_model("custom", None, home)
    with pytest.raises(ModelError, match="no such model"):
        resolve_model("custom", tmp_path / "none", home)


@pytest.fixture
def own(tmp_path):
    """A model directory of ours."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("dna", "protein", "classifier"):
        save_file({"w": np.zeros(3, np.float32)}, folder / f"{name}.safetensors")
    names = [f"{name}.safetensors" for name in ("dna", "protein", "classifier")]
    value = {
        "format": 1, "name": "own", "licence": "MIT", "source": "test",
        "dna": {"kind": "mini-dna", "file": names[0], "config": {"dim": 8}},
        "protein": {"kind": "mini-protein", "file": names[1], "config": {"dim": 16}},
        "classifier": {"kind": "mini", "file": names[2]},
        "orf_policy": {"name": "longest", "keep": 1}, "chunk_nt": 400, "calibration": None,
        "files": {name: sha256_file(folder / name) for name in names},
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(value))
    return folder


def test_a_model_directory_says_all_that_decides_scores(own, tmp_path):
    spec = resolve_model("custom", own, tmp_path)
    assert (spec.name, spec.dim, spec.chunk_nt) == ("own", 24, 400)
    assert spec.orf_policy == OrfPolicy("longest", 1)
    assert spec.dna.path == own / "dna.safetensors"


def test_a_model_directory_can_be_installed_and_used_by_name(own, tmp_path):
    home = tmp_path / "home"
    digest = resolve_model("custom", own, home).digest
    record = install_local(own, "mine", home)
    assert (record.kind, record.licence) == ("model", "MIT")
    shutil.rmtree(own)
    from pathlib import Path

    assert resolve_model("custom", Path("mine"), home).digest == digest


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"name": "../x"}, {"chunk_nt": 0}, {"chunk_nt": "500"}, {"files": {}},
        {"files": None}, {"orf_policy": {"name": "none", "keep": 1}}, {"dna": {}},
        {"dna": {"kind": "mini-dna", "file": "../dna.safetensors", "config": {"dim": 8}}},
        {"dna": {"kind": "pickle", "file": "dna.safetensors", "config": {"dim": 8}}},
        {"calibration": "absent.json"}, {"orf_policy": {"name": "longest", "keep": 9}},
        {"protein": {"model": "absent"}}, {"protein": {"model": "../../etc"}},
        {"files": {"../../../etc/passwd": "0"}}, {"classifier": []},
    ],
)  # fmt: skip
def test_a_description_that_is_not_valid_is_refused(own, tmp_path, change):
    path = own / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError):
        resolve_model("custom", own, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"\ud800"', "\x00"])
def test_a_description_that_is_no_json_is_refused(own, tmp_path, text):
    (own / "model.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ModelError):
        resolve_model("custom", own, tmp_path)


def test_a_file_unlike_its_listed_hash_is_refused(own, tmp_path):
    save_file({"w": np.ones(3, np.float32)}, own / "dna.safetensors")
    with pytest.raises(ModelError, match="sha256"):
        resolve_model("custom", own, tmp_path)


def test_the_list_shows_what_is_installed(home):
    names = [(record.name, record.kind) for record in list_models(home)]
    assert names == [
        ("DNABERT-S", "encoder"), ("esm2_t36_3B_UR50D", "encoder"), ("500", "classifier"),
    ]  # fmt: skip
    assert all(record.size > 0 and len(record.sha256) == 64 for record in list_models(home))
    assert list_models(home / "absent") == []


@pytest.fixture
def nobody():
    """An ordinary user for the length of a test; what root may read they may not."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    yield
    os.seteuid(mine)


def test_a_home_of_somebody_else_is_an_error_that_says_so(home, request):
    (home / "encoders" / "DNABERT-S").chmod(0)
    home.chmod(0)
    request.getfixturevalue("nobody")
    with pytest.raises(ModelError, match=r"cannot be read.*VIRNUCPRO_MODEL_DIR"):
        list_models(home)
    with pytest.raises(ModelError, match="cannot be read"):
        resolve_model("500", None, home)


def test_a_file_that_is_no_classifier_is_told_before_encoders_are_asked_for(tmp_path):
    path = tmp_path / "contigs.fa"
    path.write_text(">a\nACGT\n")
    with pytest.raises(ModelError, match=r"contigs\.fa") as caught:
        resolve_model("custom", path, tmp_path / "nothing")
    assert "DNABERT-S" not in str(caught.value)


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


@pytest.mark.parametrize("text", ["{}", "[]", "x", '{"format": 1, "files": {"../x": {}}}'])
def test_a_damaged_record_is_an_error(home, text):
    (home / "500" / RECORD_NAME).write_text(text)
    with pytest.raises(ModelError, match=r"installed\.json"):
        resolve_model("500", None, home)
