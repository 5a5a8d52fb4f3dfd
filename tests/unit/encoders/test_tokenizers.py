"""Token ids are those the encoders were trained with, and tokenizers travel to workers."""

import pickle

import pytest
from tiny_published import write_dna
from tokenizers import Tokenizer

from virnucpro.core.errors import ModelError
from virnucpro.encoders.tokenizers import MAX_RESIDUES, BpeTokenizer, LetterTokenizer


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
    assert (used.encode(sequence).dtype, used.encode(sequence).tolist()) == ("int64", ids)
    assert [tokens.tolist() for tokens in used.encode_batch([sequence, "AC"])] == [ids, [1, 9, 2]]
    parcel = pickle.dumps(used)  # a path, however large the vocabulary
    assert len(parcel) < 500
    assert pickle.loads(parcel).encode(sequence).tolist() == ids


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 3}', '{"version": "1.0", "trunc'])
def test_a_missing_or_damaged_file_is_a_model_error_at_the_first_use(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    tokenizer = BpeTokenizer(path)
    with pytest.raises(ModelError, match=r"no tokenizer here|not a tokenizer\.json"):
        tokenizer.encode("A")
