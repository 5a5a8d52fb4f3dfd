"""ESM-2 computes what fair-esm and transformers compute, in every layout."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from tests.checkpoints import (
    OUTLIER,
    esm2_config,
    esm2_tensors,
    fair_esm_content,
    hidden_states,
    write_safetensors,
)
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.transformer import Esm2
from virnucpro.models.specs import ESM2_SIZES, EncoderSpec, Esm2Shape

TOLERANCE = 1e-5
SHAPES = {
    "two-heads": Esm2Shape(layers=3, dim=32, heads=2, ffn=128),
    "five-heads": Esm2Shape(layers=2, dim=80, heads=5, ffn=320),
    "deep": Esm2Shape(layers=7, dim=48, heads=3, ffn=192),
}
LENGTHS = [1, 200, 2, 33, 7, 64, 65, 129, 1, 16]


@pytest.fixture(scope="module", params=SHAPES, ids=list(SHAPES))
def pair(request, tmp_path_factory):
    shape = SHAPES[request.param]
    tensors = esm2_tensors(shape, seed=shape.dim)
    folder = write_safetensors(tmp_path_factory.mktemp("esm"), tensors, esm2_config(shape))
    spec = EncoderSpec(kind="esm2", name="tiny", path=folder, sha256="", dim=shape.dim)
    return shape, tensors, load_encoder(spec, torch.device("cpu"), torch.float32)


def proteins(lengths=LENGTHS, seed=0):
    numbers = np.random.default_rng(seed)
    return [(np.array([0, *numbers.integers(3, 30, n), 2])) for i, n in enumerate(lengths)]


def padded_tensor(items):
    tokens = nn.utils.rnn.pad_sequence([torch.from_numpy(i) for i in items], True, padding_value=1)
    return tokens, tokens != 1


@torch.no_grad()
def hidden_of_fair_esm(shape, tensors, items):
    import esm

    with warnings.catch_warnings():  # it misses the contact head, which nobody asks for
        warnings.simplefilter("ignore")
        model, _ = esm.pretrained.load_model_and_alphabet_core(
            "esm2_tiny", fair_esm_content(shape, tensors)
        )
    tokens, _ = padded_tensor(items)
    states = model.eval()(tokens, repr_layers=[shape.layers])["representations"][shape.layers]
    return [row[: len(item)] for row, item in zip(states, items, strict=True)]


@torch.no_grad()
def hidden_of_transformers(shape, tensors, items):
    from transformers import EsmConfig, EsmModel

    model = EsmModel(EsmConfig(**esm2_config(shape)), add_pooling_layer=False).eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all("inv_freq" in name or "contact_head" in name for name in missing)
    tokens, mask = padded_tensor(items)
    states = model(tokens, attention_mask=mask.long()).last_hidden_state
    return [row[: len(item)] for row, item in zip(states, items, strict=True)]


def largest_difference(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("reference", [hidden_of_fair_esm, hidden_of_transformers])
def test_hidden_states_equal_the_reference(pair, reference):
    shape, tensors, encoder = pair
    items = proteins()
    theirs = reference(shape, tensors, items)
    assert max(float(h[:, OUTLIER].abs().max()) for h in theirs) > 10  # the outlier is there
    assert largest_difference(hidden_states(encoder, items), theirs) <= TOLERANCE


def test_vectors_are_means_over_residues_without_bos_and_eos(pair):
    shape, tensors, encoder = pair
    items = proteins()
    wanted = torch.stack([h[1:-1].mean(0) for h in hidden_of_fair_esm(shape, tensors, items)])
    vectors = encoder(items)
    assert vectors.dtype == torch.float32
    assert float((vectors - wanted).abs().max()) <= TOLERANCE


def test_the_layout_and_the_company_of_a_protein_change_nothing(pair):
    _, _, encoder = pair
    items = proteins()
    alone = torch.cat([encoder([item]) for item in items])
    order = np.random.default_rng(1).permutation(len(items))
    vectors = encoder([items[i] for i in order])
    assert float((vectors - alone[order]).abs().max()) <= 3e-6


def test_a_protein_without_residues_gives_zeros(pair):
    _, _, encoder = pair
    empty = np.array([0, 2])
    for items in ([empty, *proteins([9])], [empty]):
        vectors = encoder(items)
        assert not vectors[0].any()
        assert torch.isfinite(vectors).all()


def test_the_published_sizes_have_the_published_parameter_counts():
    millions = {"8M": 7.5, "35M": 33.5, "150M": 148, "650M": 651, "3B": 2839, "15B": 15134}
    for name, shape in ESM2_SIZES.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in Esm2(shape).parameters())
        size = name.split("_")[2]
        assert count / 1e6 == pytest.approx(millions[size], rel=0.02), name
