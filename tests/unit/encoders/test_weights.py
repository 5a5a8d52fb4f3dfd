"""Published weight files: every format gives the same network, every damage a clear error."""

from __future__ import annotations

import argparse
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints import (
    dnabert_config,
    dnabert_tensors,
    esm2_config,
    esm2_tensors,
    fair_esm_content,
    write_bin,
    write_fair_esm,
    write_safetensors,
    write_sharded,
)
from virnucpro.core.errors import ModelError
from virnucpro.encoders.load import load_encoder
from virnucpro.models.specs import DnabertShape, EncoderSpec, Esm2Shape

SHAPE = Esm2Shape(layers=2, dim=32, heads=2, ffn=128)
DNA_SHAPE = DnabertShape(layers=2, dim=24, heads=3, ffn=40, vocab=60)
TENSORS = esm2_tensors(SHAPE, seed=1)
CONFIG = esm2_config(SHAPE)
CPU = torch.device("cpu")


def load(path, kind="esm2", dim=32, dtype=torch.float32):
    spec = EncoderSpec(kind=kind, name="tiny", path=path, sha256="", dim=dim)
    return load_encoder(spec, CPU, dtype)


def with_prefix(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def bare_fair_esm(folder):
    """Tensors without a prefix and without options: heads come from the rotary table."""
    model = fair_esm_content(SHAPE, TENSORS)["model"]
    names = {name.removeprefix("encoder.sentence_encoder."): t for name, t in model.items()}
    folder.mkdir()
    torch.save({n: t for n, t in names.items() if "lm_head" not in n}, folder / "esm2_bare.pt")
    return folder / "esm2_bare.pt"


def whole_of_transformers(folder):
    """As `EsmForMaskedLM` saves it: prefixed, with heads and buffers that nobody needs."""
    extra = {
        "lm_head.bias": torch.zeros(33),
        "lm_head.dense.weight": torch.zeros(32, 32),
        "esm.contact_head.regression.weight": torch.zeros(1, 4),
        "esm.embeddings.position_ids": torch.arange(9)[None],
        "esm.embeddings.position_embeddings.weight": torch.zeros(9, 32),
        "esm.encoder.layer.0.attention.self.rotary_embeddings.inv_freq": torch.ones(8),
    }
    return write_bin(folder, with_prefix("esm.", TENSORS) | extra, CONFIG)


FORMATS = {
    "safetensors": lambda p: write_safetensors(p / "x", TENSORS, CONFIG),
    "safetensors-file": lambda p: write_safetensors(p / "x", TENSORS, CONFIG) / "model.safetensors",
    "safetensors-sharded": lambda p: write_sharded(p / "x", TENSORS, CONFIG),
    "bin": lambda p: write_bin(p / "x", TENSORS, CONFIG),
    "bin-sharded": lambda p: write_sharded(p / "x", TENSORS, CONFIG, pickled=True),
    "bin-of-transformers": lambda p: whole_of_transformers(p / "x"),
    "fair-esm": lambda p: write_fair_esm(p / "esm2_tiny.pt", SHAPE, TENSORS),
    "fair-esm-folder": lambda p: write_fair_esm(p / "esm2_tiny.pt", SHAPE, TENSORS).parent,
    "fair-esm-bare": lambda p: bare_fair_esm(p / "x"),
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    return load(write_safetensors(tmp_path_factory.mktemp("w"), TENSORS, CONFIG)).state_dict()


@pytest.mark.parametrize("make", FORMATS.values(), ids=list(FORMATS))
def test_every_published_format_gives_the_same_weights(make, tmp_path, wanted):
    encoder = load(make(tmp_path))
    assert encoder.shape == SHAPE
    state = encoder.state_dict()
    assert set(state) == set(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert not any(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_dnabert_loads_with_and_without_a_prefix(prefix, tmp_path):
    tensors = with_prefix(prefix, dnabert_tensors(DNA_SHAPE, seed=2))
    extra = {"cls.predictions.decoder.bias": torch.zeros(60)} if prefix else {}
    config = dnabert_config(DNA_SHAPE)
    encoder = load(write_safetensors(tmp_path / "d", tensors | extra, config), "dnabert", 24)
    assert encoder.shape == DNA_SHAPE
    name = f"{prefix}encoder.layer.1.mlp.wo.weight"
    assert torch.equal(encoder.layers[1].down.weight, tensors[name])


def test_a_bias_that_the_network_has_not_is_refused(tmp_path):
    extra = {"encoder.layer.1.mlp.gated_layers.bias": torch.ones(80)}
    tensors = dnabert_tensors(DNA_SHAPE, seed=2) | extra
    with pytest.raises(ModelError, match=r"unexpected.*gated_layers\.bias"):
        load(write_bin(tmp_path / "d", tensors, dnabert_config(DNA_SHAPE)), "dnabert", 24)


def test_weights_come_in_the_asked_precision(tmp_path):
    half = load(write_safetensors(tmp_path / "x", TENSORS, CONFIG), dtype=torch.float16)
    assert {p.dtype for p in half.parameters()} == {torch.float16}


def changed(**changes):
    return TENSORS | changes


DENSE = "encoder.layer.1.output.dense.weight"
BROKEN_TENSORS = {
    "missing": ({n: t for n, t in TENSORS.items() if n != DENSE}, "missing.*layers.1.down.weight"),
    "missing-part": (
        {n: t for n, t in TENSORS.items() if "layer.1.attention.self.query" not in n},
        "missing.*layers.1.qkv.weight",
    ),
    "missing-layer": (
        {n: t for n, t in TENSORS.items() if "layer.0." not in n},
        "missing tensors.*layers.0",
    ),
    "unexpected": (changed(**{"adapter.down.weight": torch.ones(2)}), "unexpected.*adapter.down"),
    "unexpected-layer-part": (
        changed(**{"encoder.layer.0.gate.weight": torch.ones(2)}),
        "unexpected.*layer.0.gate",
    ),
    "gap": (changed(**{"encoder.layer.9999.LayerNorm.bias": torch.ones(32)}), "layers are missing"),
    "shape": (
        changed(**{DENSE: torch.ones(32, 64)}),
        r"dense.weight is \(32, 64\), wanted \(32, 128\)",
    ),
    "integers": (
        changed(**{DENSE: torch.ones(32, 128, dtype=torch.int8)}),
        "int8, not plain floats",
    ),
    "nan": (changed(**{DENSE: torch.full((32, 128), float("nan"))}), "values that"),
    "nothing": ({"a": torch.ones(1)}, "unexpected tensors: a"),
}


@pytest.mark.parametrize(("tensors", "problem"), BROKEN_TENSORS.values(), ids=list(BROKEN_TENSORS))
@pytest.mark.parametrize("write", [write_safetensors, write_bin])
def test_tensors_that_do_not_fit_are_named(write, tensors, problem, tmp_path):
    with pytest.raises(ModelError, match=problem):
        load(write(tmp_path / "x", tensors, CONFIG))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_attention_heads": 3}, "3 attention heads for 32"),
        ({"num_attention_heads": "2"}, "attention heads"),
        ({"num_attention_heads": 32}, "attention heads"),
        ({"hidden_size": 64}, "hidden_size is 64, but the tensors say 32"),
        ({"num_hidden_layers": 5}, "num_hidden_layers is 5"),
        ({"position_embedding_type": "absolute"}, "not ESM-2"),
        ({"layer_norm_eps": None}, "layer_norm_eps is"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(change, problem, tmp_path):
    with pytest.raises(ModelError, match=problem):
        load(write_safetensors(tmp_path / "x", TENSORS, CONFIG | change))


def test_heads_must_be_known(tmp_path):
    folder = write_safetensors(tmp_path / "x", TENSORS, CONFIG)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"heads unknown; add config\.json"):
        load(folder)


def test_a_float16_overflow_is_an_error_and_not_infinity(tmp_path):
    folder = write_safetensors(
        tmp_path / "x", changed(**{DENSE: torch.full((32, 128), 1e5)}), CONFIG
    )
    load(folder)
    with pytest.raises(ModelError, match=r"dense\.weight has values that torch\.float16"):
        load(folder, dtype=torch.float16)


def test_vectors_of_another_width_than_the_model_wants_are_refused(tmp_path):
    with pytest.raises(ModelError, match="32 dimensions, not 2560"):
        load(write_safetensors(tmp_path / "x", TENSORS, CONFIG), dim=2560)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.97])
@pytest.mark.parametrize("form", ["safetensors", "bin", "fair-esm"])
def test_files_that_break_off_are_model_errors(form, keep, tmp_path):
    path = FORMATS[form](tmp_path)
    file = path if path.is_file() else next(p for p in path.iterdir() if p.name != "config.json")
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ModelError, match=r"damaged|whole|cannot be read"):
        load(path)


@pytest.mark.parametrize("position", range(0, 2000, 97))
def test_flipped_bytes_are_model_errors_or_other_numbers(position, tmp_path):
    file = write_fair_esm(tmp_path / "esm2.pt", SHAPE, TENSORS)
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)
    try:
        load(file)
    except ModelError as error:
        assert str(file) in str(error)


class Payload:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return exec, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["state", "options"])
def test_a_malicious_pickle_is_refused_and_not_run(place, legacy, tmp_path):
    proof = tmp_path / "proof"
    payload = Payload(f"open({str(proof)!r}, 'w').close()")
    content = fair_esm_content(SHAPE, TENSORS)
    if place == "state":
        content["model"]["evil"] = payload
    else:
        content["cfg"] = {"model": argparse.Namespace(encoder_layers=payload)}
    file = tmp_path / "esm2_evil.pt"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"names exec.*nothing of it was executed"):
        load(file)
    assert not proof.exists()
    pickle.loads(pickle.dumps(payload))  # it would have worked
    assert proof.exists()


def test_only_the_namespace_of_argparse_gets_in(tmp_path):
    content = fair_esm_content(SHAPE, TENSORS) | {"more": argparse.ArgumentParser}
    torch.save(content, tmp_path / "esm2.pt")
    with pytest.raises(ModelError, match="ArgumentParser"):
        load(tmp_path / "esm2.pt")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("name", ["../up.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""])
def test_an_index_cannot_name_files_elsewhere(name, tmp_path):
    folder = write_sharded(tmp_path / "x", TENSORS, CONFIG)
    shutil.copy(folder / "model-00001-of-00002.safetensors", tmp_path / "up.safetensors")
    index = {"weight_map": dict.fromkeys(TENSORS, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not a file beside the index"):
        load(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 99999]
)
def test_a_damaged_index_is_a_model_error(content, tmp_path):
    folder = write_sharded(tmp_path / "x", TENSORS, CONFIG)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json"):
        load(folder)


def test_a_missing_shard_and_a_tensor_in_two_shards_are_model_errors(tmp_path):
    folder = write_sharded(tmp_path / "x", TENSORS, CONFIG)
    second = folder / "model-00002-of-00002.safetensors"
    save_file(TENSORS, second)
    with pytest.raises(ModelError, match="is there twice"):
        load(folder)
    second.unlink()
    with pytest.raises(ModelError, match="shard is missing"):
        load(folder)


def test_what_is_no_model_at_all_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match="no weights here"):
        load(tmp_path)
    with pytest.raises(ModelError, match="no such weights"):
        load(tmp_path / "absent.pt")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match="not a weight file"):
        load(tmp_path / "notes.txt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="not a table of tensors"):
        load(tmp_path / "list.pt")
    torch.save({"a": "text"}, tmp_path / "text.pt")
    with pytest.raises(ModelError, match="'a' is a str, not a tensor"):
        load(tmp_path / "text.pt")
    with pytest.raises(ModelError, match="several weight files"):
        load(tmp_path)
