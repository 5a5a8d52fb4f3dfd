"""Published weight files: every format gives the same network, every damage a clear error."""

import json

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints import (
    dnabert_config,
    dnabert_tensors,
    esm2_config,
    esm2_tensors,
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
TENSORS, CONFIG = esm2_tensors(SHAPE, seed=1), esm2_config(SHAPE)
DNA_TENSORS, DNA_CONFIG = dnabert_tensors(DNA_SHAPE, seed=2), dnabert_config(DNA_SHAPE)
DENSE = "encoder.layer.1.output.dense.weight"


def load(path, kind="esm2", dim=32, dtype=torch.float32):
    spec = EncoderSpec(kind=kind, name="tiny", path=path, sha256="", dim=dim)
    return load_encoder(spec, torch.device("cpu"), dtype)


def with_prefix(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


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
    "safetensors-sharded": lambda p: write_sharded(p / "x", TENSORS, CONFIG),
    "bin": lambda p: write_bin(p / "x", TENSORS, CONFIG),
    "bin-sharded": lambda p: write_sharded(p / "x", TENSORS, CONFIG, pickled=True),
    "bin-of-transformers": lambda p: whole_of_transformers(p / "x"),
    "fair-esm": lambda p: write_fair_esm(p / "esm2_tiny.pt", SHAPE, TENSORS),
}


@pytest.mark.parametrize("make", FORMATS.values(), ids=list(FORMATS))
def test_every_published_format_gives_the_same_weights(make, tmp_path):
    wanted = load(write_safetensors(tmp_path / "wanted", TENSORS, CONFIG)).state_dict()
    path = make(tmp_path)
    encoder = load(path)
    assert encoder.shape == SHAPE
    state = encoder.state_dict()
    assert set(state) == set(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert {p.dtype for p in load(path, dtype=torch.float16).parameters()} == {torch.float16}


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_dnabert_loads_with_and_without_a_prefix(prefix, tmp_path):
    tensors = with_prefix(prefix, DNA_TENSORS)
    extra = {"cls.predictions.decoder.bias": torch.zeros(60)} if prefix else {}
    encoder = load(write_safetensors(tmp_path / "d", tensors | extra, DNA_CONFIG), "dnabert", 24)
    assert encoder.shape == DNA_SHAPE
    name = f"{prefix}encoder.layer.1.mlp.wo.weight"
    assert torch.equal(encoder.layers[1].down.weight, tensors[name])


def without(part):
    return {name: tensor for name, tensor in TENSORS.items() if part not in name}


BROKEN_TENSORS = {
    "missing": (without(DENSE), "missing.*layers.1.down.weight"),
    "missing layer": (without("layer.0."), "missing tensors.*layers.0"),
    "unexpected": ({"adapter.down.weight": torch.ones(2)}, "unexpected.*adapter.down"),
    "gap": ({"encoder.layer.9999.LayerNorm.bias": torch.ones(32)}, "layers are missing"),
    "shape": ({DENSE: torch.ones(32, 64)}, r"dense.weight is \(32, 64\), wanted \(32, 128\)"),
    "integers": ({DENSE: torch.ones(32, 128, dtype=torch.int8)}, "int8, not plain floats"),
    "nan": ({DENSE: torch.full((32, 128), float("nan"))}, "values that torch.float16"),
    "overflow": ({DENSE: torch.full((32, 128), 1e5)}, "values that torch.float16"),
}


@pytest.mark.parametrize("case", BROKEN_TENSORS)
@pytest.mark.parametrize("write", [write_safetensors, write_bin])
def test_tensors_that_do_not_fit_are_named(write, case, tmp_path):
    tensors, problem = BROKEN_TENSORS[case]
    tensors = tensors if "missing" in case else TENSORS | tensors
    folder = write(tmp_path / "x", tensors, CONFIG)
    with pytest.raises(ModelError, match=problem):
        load(folder, dtype=torch.float16)
    if case == "overflow":  # which float32 can hold
        load(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_attention_heads": 3}, "3 attention heads for 32"),
        ({"num_attention_heads": True}, "attention heads"),
        ({"num_attention_heads": None}, r"heads unknown; add config\.json"),
        ({"hidden_size": 64}, "hidden_size is 64, but the tensors say 32"),
        ({"num_hidden_layers": 5}, "num_hidden_layers is 5"),
        ({"position_embedding_type": "absolute"}, "not ESM-2"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps is"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(change, problem, tmp_path):
    with pytest.raises(ModelError, match=problem):
        load(write_safetensors(tmp_path / "x", TENSORS, CONFIG | change))


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


def index(content):
    def write(folder):
        write_sharded(folder, TENSORS, CONFIG)
        (folder / "model.safetensors.index.json").write_text(content)

    return write


def twice(folder):
    write_sharded(folder, TENSORS, CONFIG)
    save_file(TENSORS, folder / "model-00002-of-00002.safetensors")


def no_shard(folder):
    write_sharded(folder, TENSORS, CONFIG)
    (folder / "model-00002-of-00002.safetensors").unlink()


ELSEWHERE = ["../up.safetensors", "/etc/passwd", ""]
NO_INDEX = ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 99999]
NAME = "pytorch_model.bin"
LAYOUTS = [
    *((index(json.dumps({"weight_map": {"a": name}})), "beside the index") for name in ELSEWHERE),
    *((index(content), r"index\.json") for content in NO_INDEX),
    (twice, "is there twice"),
    (no_shard, "shard is missing"),
    (lambda folder: None, "no weights here"),
    (lambda folder: torch.save([1, 2], folder / NAME), "not a table of tensors"),
    (lambda folder: torch.save({"a": "text"}, folder / NAME), "'a' is a str, not a tensor"),
    (lambda folder: torch.save({"a": torch.ones(1)}, folder / NAME), "unexpected tensors: a"),
]


@pytest.mark.parametrize(("write", "problem"), LAYOUTS)
def test_a_folder_that_is_no_whole_model_is_a_model_error(write, problem, tmp_path):
    save_file(TENSORS, tmp_path / "up.safetensors")
    folder = tmp_path / "x"
    folder.mkdir()
    write(folder)
    with pytest.raises(ModelError, match=problem):
        load(folder)
