"""Fetching: the first fetch records revision and hashes, and nothing else is accepted after."""

import hashlib
import json

import pytest
from safetensors.numpy import load_file
from tiny_published import classifier_state

from virnucpro.core.errors import ModelError
from virnucpro.models.fetch import fetch, plan_fetch
from virnucpro.models.specs import CLASSIFIER_REPOSITORY, CLASSIFIER_REVISION, needed_files
from virnucpro.models.store import MANIFEST, read_manifest

ESM, DNA = "esm2_t36_3B_UR50D", "DNABERT-S"
ESM_REPOSITORY, DNA_REPOSITORY = "facebook/esm2_t36_3B_UR50D", "zhihan1996/DNABERT-S"
FIRST, SECOND = "1" * 40, "2" * 40
CONFIG = json.dumps({"hidden_size": 8}).encode()
WEIGHTS = b"first weights" * 999


@pytest.fixture(autouse=True)
def revisions(hub):
    """Two revisions of both encoders, of which the first is the main one."""
    for repository in (ESM_REPOSITORY, DNA_REPOSITORY):
        hub.offer(repository, SECOND, config__json=CONFIG, model__safetensors=b"second weights")
        hub.offer(repository, FIRST, config__json=CONFIG, model__safetensors=WEIGHTS,
                  bert_layers__py=b"import os", pytorch_model__bin=b"pickle")  # fmt: skip


def fetch_all(names, home, offline=False, **revisions):
    return [fetch(plan, home) for plan in plan_fetch(names, home, revisions, offline)]


def downloads(hub):
    return [one for one in hub.requests if one.startswith("GET /") and "api" not in one]


def test_only_weights_and_texts_are_planned_and_come(hub, tmp_path):
    (plan,) = plan_fetch([ESM], tmp_path, {})
    assert [file.name for file in plan.files] == ["config.json", "model.safetensors"]
    assert (plan.size, plan.revision) == (len(CONFIG) + len(WEIGHTS), FIRST)
    assert downloads(hub) == []
    installed = fetch(plan, tmp_path)
    names = {path.name for path in installed.folder.iterdir()}
    assert names == {"config.json", "model.safetensors", MANIFEST}
    assert installed.files["model.safetensors"].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert (installed.revision, installed.licence, installed.kind) == (FIRST, "mit", "encoder")
    assert installed == read_manifest(tmp_path / "encoders" / ESM)
    assert not list(tmp_path.glob(".partial/*"))


@pytest.mark.parametrize("pinned", [{}, {ESM: SECOND}])
def test_the_recorded_revision_stays_when_the_hub_moves_on(hub, tmp_path, pinned):
    (installed,) = fetch_all([ESM], tmp_path, **pinned)
    assert installed.revision == pinned.get(ESM, FIRST)
    hub.main[ESM_REPOSITORY] = SECOND if installed.revision == FIRST else FIRST
    before = len(hub.requests)
    assert fetch_all([ESM], tmp_path) == [installed]
    assert len(hub.requests) == before
    with pytest.raises(ModelError, match="is installed; remove the folder"):
        fetch_all([ESM], tmp_path, **{ESM: hub.main[ESM_REPOSITORY]})


def test_a_damaged_file_is_fetched_again_alone(hub, tmp_path):
    (installed,) = fetch_all([ESM], tmp_path)
    (installed.folder / "model.safetensors").write_bytes(b"x")
    hub.main[ESM_REPOSITORY] = SECOND
    hub.requests.clear()
    fetch_all([ESM], tmp_path)
    assert all("config.json" not in request for request in downloads(hub))
    assert {path.name for path in installed.folder.iterdir()} == {*installed.files, MANIFEST}
    installed.check(full=True)


@pytest.mark.parametrize("stated_too", [False, True], ids=["sent", "stated and sent"])
def test_changed_remote_content_is_refused_whenever_it_comes(hub, tmp_path, stated_too):
    (installed,) = fetch_all([ESM], tmp_path)
    (installed.folder / "model.safetensors").unlink()
    files = hub.repositories[ESM_REPOSITORY][FIRST]
    if not stated_too:
        hub.stated["model.safetensors"] = files["model.safetensors"]
    files["model.safetensors"] = b"other weights" * 999
    for _ in range(2):  # what was refused is not taken for the file later
        with pytest.raises(ModelError, match="refused"):
            fetch_all([ESM], tmp_path)
    assert not (installed.folder / "model.safetensors").exists()
    files["model.safetensors"] = WEIGHTS
    assert fetch_all([ESM], tmp_path) == [installed]
    installed.check(full=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_content_unlike_what_the_hub_states_is_refused_at_once(hub, tmp_path, name):
    hub.stated[name] = hub.repositories[DNA_REPOSITORY][FIRST][name][::-1]
    with pytest.raises(ModelError, match="not the content that its source states"):
        fetch_all([DNA], tmp_path)
    assert read_manifest(tmp_path / "encoders" / DNA) is None


def test_a_fetch_that_broke_off_goes_on_at_its_revision(hub, tmp_path):
    (plan,) = plan_fetch([DNA], tmp_path, {})
    hub.breaks = [200] * 10 + [0] * 10
    with pytest.raises(ModelError, match="fetch again to go on"):
        fetch(plan, tmp_path)
    hub.breaks.clear()
    hub.main[DNA_REPOSITORY] = SECOND
    hub.requests.clear()
    (installed,) = fetch_all([DNA], tmp_path)
    assert installed.revision == plan.revision == FIRST
    assert not [request for request in downloads(hub) if "config.json" in request]


@pytest.mark.parametrize("name", [DNA, "500"])
def test_a_short_break_is_bridged(hub, tmp_path, name):
    plan = plan_fetch([name], tmp_path, {})[-1]
    hub.breaks = [500, 1]
    assert fetch(plan, tmp_path).revision == plan.revision
    assert hub.breaks == []


def test_remote_names_never_become_other_paths():
    hostile = ["../model.safetensors", "/etc/passwd", "a/model.safetensors", "vocab.txt\n",
               "model-00001-of-00002.safetensors/x", "..", "config.json.py"]  # fmt: skip
    assert needed_files(hostile) == []
    sharded = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"]
    assert needed_files([*hostile, *sharded]) == sharded


def test_a_model_brings_its_encoders_and_a_converted_classifier(tmp_path):
    home = tmp_path / "home"
    dna, esm, classifier = fetch_all(["500"], home)
    assert (dna.name, esm.name, classifier.name) == (DNA, ESM, "500")
    path = classifier.folder / "classifier.safetensors"
    assert (load_file(path)["bn1.weight"] == classifier_state()["bn1.weight"].numpy()).all()
    assert classifier.revision == CLASSIFIER_REVISION
    assert not list(home.rglob("*.pth"))
    path.write_bytes(b"x")
    fetch_all(["500"], home)
    classifier.check(full=True)


def test_a_changed_classifier_is_refused(hub, tmp_path):
    files = hub.repositories[CLASSIFIER_REPOSITORY][CLASSIFIER_REVISION]
    files["500_model.pth"] = files["500_model.pth"][::-1]
    with pytest.raises(ModelError, match="not the content that its source states"):
        fetch_all(["500"], tmp_path / "home")
    assert read_manifest(tmp_path / "home" / "500") is None
