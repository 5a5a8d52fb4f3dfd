"""`virnucpro models` on tiny models in the published formats."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from runs_here import predict_with, write_fasta
from runs_here import run as command
from tiny_published import classifier_state

from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.models.store import resolve_model
from virnucpro.tools import verify as checks
from virnucpro.tools.verify import fixed_sequences, one_by_one


def run(*arguments, code=0):
    result = command("models", *arguments)
    assert result.exit_code == code, result.output
    return result.output


def test_list_shows_place_source_licence_size_hash_and_damage(published):
    spec = resolve_model("500", None, published)
    few, much = run("list"), run("list", "-v")
    for text in (few, much):
        for words in (
            r"mini +bundled +[\d.]+ MB +MIT",
            r"500 +model +\S+ \S+ +MIT",
            "300 +not installed",
        ):
            assert re.search(f"^{words}", text, re.MULTILINE), text
        assert "DAMAGED" not in text
    assert spec.classifier_sha256 not in few and str(published / "500") not in few
    assert spec.classifier_sha256 in much and str(published / "500") in much
    (published / "500" / "classifier.safetensors").write_bytes(b"x")
    assert "DAMAGED" in run("list")


def test_fetch_shows_its_plan_and_asks_nothing_without_a_terminal(hub):
    unclear = run("fetch", "DNABERT-S", "500", "--revision", "b" * 40, code=2)
    assert "NAME=COMMIT" in unclear
    assert "no answer" in run("fetch", "DNABERT-S", "--revision", "b" * 40, code=4)
    text = run("fetch", "DNABERT-S", "--revision", f"DNABERT-S={'a' * 40}")
    assert "model.safetensors  700 B" in text
    assert f"zhihan1996/DNABERT-S at {'a' * 40}; mit" in text
    assert "Download?" not in text
    assert "DNABERT-S: installed" in text
    assert "nothing to download" in run("fetch", "DNABERT-S")


@pytest.mark.parametrize("variable", ["VIRNUCPRO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_is_honoured(hub, monkeypatch, variable):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr("socket.socket.connect", refuse)
    assert "offline mode is on" in run("fetch", "DNABERT-S", code=4)
    assert hub.requests == []


def test_verify_compares_every_path(published):
    text = run("verify", "500", "--device", "cpu")
    slots = ("DNABERT-S", "esm2_t36_3B_UR50D", "scores")
    paths = ("padded float32", "packed float32")
    places = [text.index(f"{slot}, {path}") for slot in slots for path in paths]
    assert places == sorted(places)
    assert "all checks passed on cpu" in text


def test_verify_finds_a_path_that_computes_something_else(published, monkeypatch):
    whole = checks._embed

    def wrong(kind, encoder, items, device):
        vectors = whole(kind, encoder, items, device)
        return vectors + 0.01 if kind == "packed" else vectors

    monkeypatch.setattr(checks, "_embed", wrong)
    text = run("verify", "500", "--device", "cpu", code=4)
    assert "FAIL  DNABERT-S, packed float32: relative error" in text
    assert "FAIL  DNABERT-S, padded" not in text


@pytest.fixture
def golden(published, tmp_path):
    """Published outputs in small: vectors of the plain path, scores by the formula."""
    spec = resolve_model("500", None, published)
    nucleotide, protein = fixed_sequences(4)
    cpu, plain = torch.device("cpu"), torch.float32
    dna, esm = (
        one_by_one(load_encoder(slot, cpu, plain), make_tokenizer(slot).encode_batch(s), cpu)
        for slot, s in ((spec.dna, nucleotide), (spec.protein, protein))
    )
    merged = np.concatenate([dna, esm], axis=1)
    w = {name: tensor.double().numpy() for name, tensor in classifier_state().items()}
    hidden = merged @ w["hidden_layer.weight"].T + w["hidden_layer.bias"] - w["bn1.running_mean"]
    hidden = hidden / np.sqrt(w["bn1.running_var"] + 1e-5) * w["bn1.weight"] + w["bn1.bias"]
    logits = np.maximum(hidden, 0) @ w["output_layer.weight"].T + w["output_layer.bias"]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    folder = tmp_path / "golden"
    folder.mkdir()
    tables = {
        "nucleotide": np.array(nucleotide), "protein": np.array(protein),
        "dnabert": dna, "esm2": esm, "merged": merged, "scores": scores,
    }  # fmt: skip
    np.savez(folder / "tiny.npz", **tables)
    return folder, tables


def test_verify_recomputes_published_outputs(golden):
    text = run("verify", "--golden", golden[0], "--device", "cpu")
    for stage in ("dnabert", "esm2", "merged", "scores", "classifier on"):
        assert f"ok    tiny, {stage}" in text


@pytest.mark.parametrize("stage", ["dnabert", "esm2", "merged", "scores"])
def test_verify_sees_a_difference_in_one_number(golden, stage):
    folder, tables = golden
    tables[stage][2, 1] += 0.005
    np.savez(folder / "tiny.npz", **tables)
    text = run("verify", "500", "--golden", folder, "--device", "cpu", code=4)
    assert f"FAIL  tiny, {stage}: largest difference: 5.0" in text


def test_verify_recomputes_result_folders(published, tmp_path):
    fasta = write_fasta(tmp_path / "in.fa", *((f"c{i}", i) for i in range(3)))
    out = tmp_path / "out"
    assert predict_with(published, fasta, "-k", "-o", out, "-d", "cpu").exit_code == 0
    text = run("verify", "500", "--golden", tmp_path, "--device", "cpu")
    for stage in ("dnabert", "esm2", "merged", "scores"):
        assert f"ok    out/in, {stage}" in text
    table = out / "in_merged" / "prediction_results.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:-1], lines[-1].rsplit("\t", 1)[0] + "\t0.5"]) + "\n")
    assert "FAIL  out/in, scores" in run("verify", "500", "--golden", out.parent, code=4)
    (out / "in_protein" / "output_1_ESM.pt").write_bytes(b"half")
    assert "output_1_ESM.pt" in run("verify", "500", "--golden", out.parent, code=4)


def test_verify_says_what_is_wrong_with_a_golden_folder(golden, tmp_path):
    folder, tables = golden
    assert "holds no outputs of the original" in run("verify", "500", "--golden", tmp_path, code=4)
    np.savez(folder / "tiny.npz", **(tables | {"dnabert": tables["dnabert"][:, :5]}))
    assert "width 32" in run("verify", "500", "--golden", folder, code=4)
    np.savez(folder / "tiny.npz", dnabert=np.array([{}], dtype=object))
    assert "not a file of published outputs" in run("verify", "500", "--golden", folder, code=4)


def test_help_needs_neither_torch_nor_numpy():
    code = (
        "from virnucpro.cli import main, models, predict, train, info, benchmark\n"
        "import sys; sys.exit(bool({'numpy', 'torch'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
