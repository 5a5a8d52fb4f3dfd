"""DNABERT-S computes what the published PyTorch code computes.

`dnabert_reference.npz` holds hidden states of the published network (bert_layers.py of
MAGICS-LAB/DNABERT_S, PyTorch attention, float32, one sequence a call) on the weights that
`tests/checkpoints.py` makes from the seeds below. The longest sequence is longer than the
network's initial table of distances.
"""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_published import write_dna
from tokenizers import Tokenizer

from tests.checkpoints import OUTLIER, dnabert_config, dnabert_tensors, hidden_states, write_bin
from virnucpro.core.errors import ModelError
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import MAX_RESIDUES, BpeTokenizer, LetterTokenizer
from virnucpro.models.specs import DnabertShape, EncoderSpec

TOLERANCE = 1e-5
REFERENCE = Path(__file__).parents[2] / "data" / "dnabert_reference.npz"
CASES = {
    "heads12": (DnabertShape(layers=3, dim=96, heads=12, ffn=160, vocab=300), 712),
    "heads8": (DnabertShape(layers=2, dim=32, heads=8, ffn=64, vocab=50), 608),
}


@pytest.fixture(scope="module", params=CASES, ids=list(CASES))
def case(request, tmp_path_factory):
    shape, seed = CASES[request.param]
    folder = write_bin(
        tmp_path_factory.mktemp("dna"), dnabert_tensors(shape, seed), dnabert_config(shape)
    )
    spec = EncoderSpec(kind="dnabert", name="tiny", path=folder, sha256="", dim=shape.dim)
    encoder = load_encoder(spec, torch.device("cpu"), torch.float32)
    with np.load(REFERENCE) as data:
        bounds = np.cumsum(data[f"{request.param}/lengths"])[:-1]
        ids = np.split(data[f"{request.param}/ids"].astype(np.int64), bounds)
        hidden = np.split(data[f"{request.param}/hidden"], bounds)
        means = data[f"{request.param}/mean"]
    return encoder, [(x) for i, x in enumerate(ids)], hidden, means


def test_hidden_states_equal_the_published_network(case):
    encoder, items, hidden, _ = case
    assert all(np.abs(h[:, OUTLIER]).max() > 10 for h in hidden)  # the outlier is there
    for ours, theirs in zip(hidden_states(encoder, items), hidden, strict=True):
        assert float((ours - torch.from_numpy(theirs)).abs().max()) <= TOLERANCE


def test_vectors_are_means_over_all_tokens(case):
    encoder, items, _, means = case
    vectors = encoder(items)
    assert vectors.dtype == torch.float32
    assert float((vectors - torch.from_numpy(means)).abs().max()) <= TOLERANCE


def test_the_layout_and_the_company_of_a_sequence_change_nothing(case):
    encoder, items, _, _ = case
    alone = torch.cat([encoder([item]) for item in items])
    order = np.random.default_rng(1).permutation(len(items))
    vectors = encoder([items[i] for i in order])
    assert float((vectors - alone[order]).abs().max()) <= 3e-6


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    """A byte pair vocabulary of the published form, which even asks for truncation."""
    path = write_dna(tmp_path_factory.mktemp("bpe")) / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize(
    ("kind", "sequence", "ids"),
    [
        ("mini-dna", "acgtuN-ACGTU", [0, 1, 2, 3, 3, 4, 4, 0, 1, 2, 3, 3]),
        ("mini-protein", "AYX*acy", [0, 19, 20, 20, 0, 1, 19]),
        ("esm2", "M" + "L" * 2000 + "W", [0, 20, *[4] * (MAX_RESIDUES - 1), 2]),
        ("esm2", "L" * MAX_RESIDUES, [0, *[4] * MAX_RESIDUES, 2]),
    ],
)
def test_letters_have_their_ids_also_after_a_journey(kind, sequence, ids):
    for tokenizer in (made := LetterTokenizer(kind), pickle.loads(pickle.dumps(made))):
        tokens = tokenizer.encode(sequence)
        assert (tokens.dtype, tokens.tolist()) == ("int64", ids)


@pytest.mark.parametrize(
    "protein", ["M", "ACDEFGHIKLMNPQRSTVWY", "XBUZO.-", "MKJ*?", "", "L" * 300, "mkv", "Mµ\u4e2d"]
)
def test_tokens_equal_fair_esm(protein):
    import esm

    alphabet = esm.Alphabet.from_architecture("ESM-1b")
    wanted = [alphabet.cls_idx, *(alphabet.get_idx(aa) for aa in protein), alphabet.eos_idx]
    assert LetterTokenizer("esm2").encode(protein).tolist() == wanted


@pytest.mark.parametrize(
    ("sequence", "ids"),
    [
        ("ACGTGTA", [1, 11, 10, 5, 2]),
        ("A", [1, 5, 2]),
        ("ACGT" * 700, [1, *[11] * 700, 2]),  # neither cut off nor filled up
        ("ACGTN", [1, 11, 0, 2]),
    ],
)
def test_pairs_stand_between_cls_and_sep_also_after_a_journey(tokenizer_json, sequence, ids):
    used = BpeTokenizer(tokenizer_json)
    assert used.encode_batch([sequence])[0].dtype == "int64"
    assert [tokens.tolist() for tokens in used.encode_batch([sequence, "AC"])] == [ids, [1, 9, 2]]
    parcel = pickle.dumps(used)  # a path, however large the vocabulary
    assert len(parcel) < 500
    assert pickle.loads(parcel).encode_batch([sequence])[0].tolist() == ids


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 3}', '{"version": "1.0", "trunc'])
def test_a_missing_or_damaged_file_is_a_model_error_at_the_first_use(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    tokenizer = BpeTokenizer(path)
    with pytest.raises(ModelError, match=r"no tokenizer here|not a tokenizer\.json"):
        tokenizer.encode_batch(["A"])
