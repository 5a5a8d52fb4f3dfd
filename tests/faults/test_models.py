"""Model files are checked when they are loaded and when they are imported, before any record is."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from runs_here import dna
from runs_here import run as command
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny_published import WIDTH, classifier_state, write_classifier, write_dna, write_protein

from virnucpro.models.store import BUNDLED, MANIFEST, install_local, read_manifest, write_manifest

ADVICE = ("weights_only", "safe_globals", "torch.load", "allowlist", "arbitrary code")


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "in.fa"
    path.write_text(f">a\n{dna(4)}\n")
    return path


def run(*words):
    """Exit code and what was said, which never advises to run a pickle."""
    done = command(*words)
    assert not any(word in done.output for word in ADVICE)
    return done.exit_code, done.output


def expect_refused(fasta, *options):
    out = fasta.with_name("out")
    code, said = run("-q", "predict", fasta, "-o", out, "-d", "cpu", "--no-report", *options)
    assert (code, (out / "calls.tsv").exists()) == (4, False), said
    return said


def own(tmp_path, file, change, said=None):
    folder = shutil.copytree(BUNDLED, tmp_path / "own")
    path = folder / file
    if file.endswith(".json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    else:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata()
        tensors = load_file(path)
        for name, value in change.items():
            tensors[name].flat[3] = value
        if said is not None:
            metadata = {"tower": json.dumps(json.loads(metadata["tower"]) | said)}
        save_file(tensors, path, metadata=metadata)
    given = json.loads((folder / MANIFEST).read_text())
    facts = {key: given[key] for key in ("name", "source", "revision", "licence", "model")}
    write_manifest(folder, given["files"], **facts)
    return folder


NAN, INF = float("nan"), float("inf")
DAMAGED = {
    "classifier, no number": ("classifier.safetensors", {"out.weight": NAN}, None),
    "DNA encoder, no number": ("dna.safetensors", {"tower.stem.weight": NAN}, None),
    "protein encoder, infinite": ("protein.safetensors", {"tower.stem.bias": -INF}, None),
    "a width beyond reason": ("dna.safetensors", {}, {"width": 10**9}),
    "a width that is none": ("dna.safetensors", {}, {"width": "256"}),
    "blocks beyond reason": ("dna.safetensors", {}, {"dilations": [1] * 100_000}),
    "an unknown size": ("protein.safetensors", {}, {"heads": 3}),
    "slopes of text": ("calibration.json", {"slope": ["a", "b", "c", "d"]}, None),
    "a limit of text": ("calibration.json", {"other_below": "low"}, None),
    "lengths that fall": ("calibration.json", {"lengths_nt": [1000, 500, 300, 150]}, None),
    "a gain beyond reason": ("calibration.json", {"gain": 1e6}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_part_of_a_model_ends_the_run_with_its_name(published, tmp_path, fasta, case):
    file, change, said = DAMAGED[case]
    folder = own(tmp_path, file, change, said)
    assert file in expect_refused(fasta, "-m", "custom", "-p", folder)
    if file != "calibration.json":
        code, text = run("models", "import", folder, "--name", "mine")
        assert code == 4 and file in text
        assert not (published / "mine").exists()


@pytest.mark.parametrize(
    "change", [{"output_layer.bias": NAN}, {"bn1.running_var": -1.0}, {"width": WIDTH + 1}]
)
def test_a_classifier_that_does_not_fit_the_published_encoders_is_refused(
    published, tmp_path, fasta, change
):
    state = classifier_state(width=change.get("width", WIDTH))
    tensors = {name: tensor.numpy().copy() for name, tensor in state.items()}
    for name in change.keys() & tensors.keys():
        tensors[name].flat[0] = change[name]
    path = tmp_path / "c.safetensors"
    save_file(tensors, path)
    options = ("-m", "custom", "-p", path, "--orf-policy", "longest")
    assert str(path) in expect_refused(fasta, *options)


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def _damage_dna(folder, kind, bait):
    write_dna(folder)
    path = folder / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    name = "encoder.layer.1.mlp.wo.weight"
    if kind == "no number":
        tensors[name][0, 0] = NAN
    elif kind.startswith("hostile"):
        tensors["evil"] = Payload(f"touch {bait}")
    if kind == "hostile, old format":
        torch.save(tensors, path, _use_new_zipfile_serialization=False)
    else:
        torch.save(tensors, path)
    if kind == "heads beyond reason":
        config = folder / "config.json"
        changed = json.loads(config.read_text()) | {"num_attention_heads": 10**9}
        config.write_text(json.dumps(changed))
    elif kind == "tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    return folder


HOSTILE = ["no number", "hostile", "hostile, old format"]


@pytest.mark.parametrize("fault", [*HOSTILE, "heads beyond reason", "tokenizer"])
def test_import_refuses_a_damaged_encoder(published, tmp_path, fault):
    shutil.rmtree(published / "encoders" / "DNABERT-S")
    bait = tmp_path / "bait"
    source = _damage_dna(tmp_path / "dna", fault, bait)
    code, text = run("models", "import", source, "--name", "DNABERT-S")
    assert code == 4, text
    assert str(source) in text
    assert not bait.exists()
    assert not (published / "encoders" / "DNABERT-S").exists()


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_damaged_encoder_that_is_installed_ends_the_run(published, tmp_path, fasta, fault):
    shutil.rmtree(published / "encoders" / "DNABERT-S")
    install_local(_damage_dna(tmp_path / "dna", fault, tmp_path / "bait"), "DNABERT-S", published)
    text = expect_refused(fasta, "-m", "500", "--orf-policy", "longest")
    assert str(published / "encoders" / "DNABERT-S") in text
    assert not (tmp_path / "bait").exists()


def test_import_takes_what_is_whole(published, tmp_path):
    for name, source in (
        ("DNABERT-S", write_dna(tmp_path / "dna")),
        ("esm2_t36_3B_UR50D", write_protein(tmp_path / "protein")),
        ("mine", BUNDLED),
        ("300", write_classifier(tmp_path / "300_model.pth")),
    ):
        shutil.rmtree(published / "encoders" / name, ignore_errors=True)
        code, text = run("models", "import", source, "--name", name)
        assert code == 0, text
    assert np.isfinite(read_manifest(published / "mine").size)
