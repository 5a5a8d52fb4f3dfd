"""Fetching: the first fetch records revision and hashes, and nothing else is accepted after."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from fake_hub import serve_hub
from huggingface_hub import constants
from safetensors.numpy import load_file

from virnucpro.core.errors import ModelError, OutputError
from virnucpro.models import fetch_plan, web_file
from virnucpro.models.fetch_plan import Network, plan_fetch
from virnucpro.models.hub import fetch
from virnucpro.models.installed import check_installed, read_record
from virnucpro.models.published import (
    CLASSIFIER_REPOSITORY,
    CLASSIFIER_REVISION,
    CLASSIFIERS,
    PublishedClassifier,
    needed_files,
)

ESM, DNA = "esm2_t36_3B_UR50D", "DNABERT-S"
FIRST, SECOND = "1" * 40, "2" * 40
CONFIG = json.dumps({"hidden_size": 8}).encode()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(web_file, "PAUSE_S", 0.0)
    with serve_hub() as hub:
        for repository in ("facebook/esm2_t36_3B_UR50D", "zhihan1996/DNABERT-S"):
            hub.main[repository] = FIRST
            hub.repositories[repository] = {
                FIRST: {
                    "config.json": CONFIG,
                    "model.safetensors": b"first weights" * 999,
                    "bert_layers.py": b"import os",
                    "pytorch_model.bin": b"pickle",
                },
                SECOND: {"config.json": CONFIG, "model.safetensors": b"second weights"},
            }
        yield hub


@pytest.fixture
def network(hub):
    return Network(endpoint=hub.url, github=hub.url)


def fetch_all(names, home, network, **revisions):
    return [fetch(plan, home, network) for plan in plan_fetch(names, home, revisions, network)]


def downloads(hub):
    return [
        request for request in hub.requests if request.startswith("GET /") and "api" not in request
    ]


def test_only_weights_and_texts_are_planned_and_come(hub, network, tmp_path):
    (plan,) = plan_fetch([ESM], tmp_path, {}, network)
    assert [file.name for file in plan.files] == ["config.json", "model.safetensors"]
    assert (plan.size, plan.revision) == (len(CONFIG) + 13 * 999, FIRST)
    assert downloads(hub) == []
    installed = fetch(plan, tmp_path, network)
    assert sorted(path.name for path in installed.folder.iterdir()) == [
        "config.json", "installed.json", "model.safetensors",
    ]  # fmt: skip
    assert (
        installed.files["model.safetensors"].sha256
        == hashlib.sha256(b"first weights" * 999).hexdigest()
    )
    assert (installed.revision, installed.licence) == (FIRST, "mit")
    assert not list(tmp_path.glob(".partial/*"))


def test_the_recorded_revision_stays_when_the_hub_moves_on(hub, network, tmp_path):
    (installed,) = fetch_all([ESM], tmp_path, network)
    hub.main["facebook/esm2_t36_3B_UR50D"] = SECOND
    before = len(hub.requests)
    assert fetch_all([ESM], tmp_path, network) == [installed]
    assert len(hub.requests) == before
    with pytest.raises(ModelError, match="is installed; remove the folder"):
        fetch_all([ESM], tmp_path, network, **{ESM: SECOND})


def test_a_pinned_revision_is_fetched(network, tmp_path):
    (installed,) = fetch_all([ESM], tmp_path, network, **{ESM: SECOND})
    assert (installed.folder / "model.safetensors").read_bytes() == b"second weights"
    assert installed.revision == SECOND


def test_a_damaged_file_is_fetched_again_alone(hub, network, tmp_path):
    (installed,) = fetch_all([ESM], tmp_path, network)
    (installed.folder / "model.safetensors").write_bytes(b"x")
    hub.main["facebook/esm2_t36_3B_UR50D"] = SECOND
    hub.requests.clear()
    fetch_all([ESM], tmp_path, network)
    assert all("config.json" not in request for request in downloads(hub))
    check_installed(installed, full=True)


@pytest.mark.parametrize("stated_too", [False, True], ids=["sent", "stated and sent"])
def test_changed_remote_content_is_refused(hub, network, tmp_path, stated_too):
    (installed,) = fetch_all([ESM], tmp_path, network)
    (installed.folder / "model.safetensors").unlink()
    changed = b"other weights" * 999
    files = hub.repositories["facebook/esm2_t36_3B_UR50D"][FIRST]
    if not stated_too:
        hub.stated["model.safetensors"] = files["model.safetensors"]
    files["model.safetensors"] = changed
    with pytest.raises(ModelError, match="refused"):
        fetch_all([ESM], tmp_path, network)
    assert not (installed.folder / "model.safetensors").exists()
    assert read_record(installed.folder) == installed


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_content_unlike_what_the_hub_states_is_refused_at_once(hub, network, tmp_path, name):
    sent = hub.repositories["zhihan1996/DNABERT-S"][FIRST][name]
    hub.stated[name] = sent[::-1]
    with pytest.raises(ModelError, match="not the content that its source states"):
        fetch_all([DNA], tmp_path, network)
    assert read_record(tmp_path / "encoders" / DNA) is None


@pytest.mark.parametrize("name", [DNA, "500"])
def test_a_broken_download_goes_on_at_its_revision(published_500, hub, network, tmp_path, name):
    plan = plan_fetch([name], tmp_path, {}, network)[-1]
    hub.breaks = [200] * web_file.ATTEMPTS
    with pytest.raises(ModelError, match="fetch again to go on"):
        fetch(plan, tmp_path, network)
    hub.main["zhihan1996/DNABERT-S"] = SECOND
    hub.requests.clear()
    (again,) = (one for one in plan_fetch([name], tmp_path, {}, network) if one.name == name)
    assert fetch(again, tmp_path, network).revision == plan.revision
    assert any(f"bytes={200 * web_file.ATTEMPTS}-" in request for request in hub.requests)


def test_a_short_break_is_bridged(hub, network, tmp_path):
    hub.breaks = [5000, 1]
    arrived = []
    (plan,) = plan_fetch([DNA], tmp_path, {}, network)
    fetch(plan, tmp_path, network, arrived.append)
    assert sum(arrived) == plan.size


def test_offline_asks_nothing_and_says_what_to_do(hub, network, tmp_path):
    (installed,) = fetch_all([ESM], tmp_path, network)
    offline = Network(offline=True, endpoint=hub.url, github=hub.url)
    hub.requests.clear()
    assert fetch_all([ESM], tmp_path, offline) == [installed]
    with pytest.raises(ModelError, match="offline mode is on"):
        fetch_all([DNA], tmp_path, offline)
    assert hub.requests == []


def test_the_hubs_own_offline_mode_is_a_clear_error(network, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no answer"):
        plan_fetch([ESM], tmp_path, {}, network)


def test_no_server_is_a_clear_error(tmp_path):
    nobody = Network(endpoint="http://127.0.0.1:9", github="http://127.0.0.1:9")
    for name in (ESM, "500"):
        with pytest.raises(ModelError, match=r"no answer|cannot be reached"):
            plan_fetch([name], tmp_path, {}, nobody)


def test_a_full_disk_is_found_before_the_download(hub, network, tmp_path, monkeypatch):
    (plan,) = plan_fetch([ESM], tmp_path, {}, network)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"needs 0\.00 GB"):
        fetch(plan, tmp_path, network)
    assert downloads(hub) == []


@pytest.mark.parametrize("sha", ["main", FIRST[:39], "../../etc", SECOND])
def test_a_revision_the_hub_makes_up_is_refused(network, tmp_path, monkeypatch, sha):
    info = fetch_plan._model_info("facebook/esm2_t36_3B_UR50D", FIRST, network)
    info.sha = sha
    monkeypatch.setattr(fetch_plan, "_model_info", lambda *_: info)
    with pytest.raises(ModelError, match="asked for"):
        plan_fetch([ESM], tmp_path, {ESM: FIRST}, network)


def test_remote_names_never_become_other_paths():
    hostile = ["../model.safetensors", "/etc/passwd", "a/model.safetensors", "vocab.txt\n",
               "model-00001-of-00002.safetensors/x", "..", "config.json.py"]  # fmt: skip
    assert needed_files(hostile) == []
    sharded = ["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"]
    assert needed_files([*hostile, *sharded]) == sharded


@pytest.fixture
def published_500(hub, monkeypatch, tmp_path):
    """A classifier as the original publishes it, with the state dict of a small network."""
    torch.manual_seed(1)
    network = torch.nn.ModuleDict(
        {"hidden_layer": torch.nn.Linear(16, 4), "bn1": torch.nn.BatchNorm1d(4),
         "output_layer": torch.nn.Linear(4, 2)}
    )  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "500_model.pth")
    data = (tmp_path / "500_model.pth").read_bytes()
    hub.repositories[CLASSIFIER_REPOSITORY] = {CLASSIFIER_REVISION: {"500_model.pth": data}}
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry = PublishedClassifier(chunk_nt=500, file="500_model.pth", blob=blob)
    monkeypatch.setitem(CLASSIFIERS, "500", entry)
    return network.state_dict()


def test_a_model_brings_its_encoders_and_a_converted_classifier(published_500, network, tmp_path):
    home = tmp_path / "home"
    dna, esm, classifier = fetch_all(["500"], home, network)
    assert (dna.name, esm.name, classifier.name) == (DNA, ESM, "500")
    tensors = load_file(classifier.folder / "classifier.safetensors")
    assert (tensors["bn1.weight"] == published_500["bn1.weight"].numpy()).all()
    assert classifier.revision == CLASSIFIER_REVISION
    assert not list(home.rglob("*.pth"))


def test_a_changed_classifier_is_refused(published_500, hub, network, tmp_path):
    files = hub.repositories[CLASSIFIER_REPOSITORY][CLASSIFIER_REVISION]
    files["500_model.pth"] = files["500_model.pth"][::-1]
    with pytest.raises(ModelError, match="not the content that its source states"):
        fetch_all(["500"], tmp_path / "home", network)
    assert read_record(tmp_path / "home" / "500") is None
