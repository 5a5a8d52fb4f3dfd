"""DNA tokens are what the `tokenizer.json` says, with CLS and SEP and without truncation."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from virnucpro.core.errors import ModelError
from virnucpro.tokens.dna import BpeTokenizer

SPECIAL = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@pytest.fixture
def tokenizer_json(tmp_path):
    """A byte pair vocabulary of the published form, which even asks for truncation."""
    words = [*SPECIAL, "A", "C", "G", "T", "AC", "GT", "ACGT"]
    merges = [("A", "C"), ("G", "T"), ("AC", "GT")]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_sequence_stands_between_cls_and_sep(tokenizer_json):
    tokens = BpeTokenizer(tokenizer_json).encode("ACGTGTA")
    assert tokens.dtype == "int64"
    assert tokens.tolist() == [1, 11, 10, 5, 2]


def test_nothing_is_cut_off_or_filled_up(tokenizer_json):
    tokenizer = BpeTokenizer(tokenizer_json)
    assert len(tokenizer.encode("ACGT" * 700)) == 702
    assert len(tokenizer.encode("A")) == 3


def test_unknown_letters_become_the_unknown_token(tokenizer_json):
    assert 0 in BpeTokenizer(tokenizer_json).encode("ACGTN").tolist()


def test_it_travels_as_a_path_and_reads_the_file_on_first_use(tokenizer_json, tmp_path):
    used = BpeTokenizer(tokenizer_json)
    assert used.encode("AC").tolist() == [1, 9, 2]
    parcel = pickle.dumps(used)
    assert len(parcel) < 500
    assert pickle.loads(parcel).encode("AC").tolist() == [1, 9, 2]
    BpeTokenizer(tmp_path / "absent.json")


def test_a_missing_or_damaged_file_is_a_model_error(tokenizer_json, tmp_path):
    with pytest.raises(ModelError, match="no tokenizer here"):
        BpeTokenizer(tmp_path / "absent.json").encode("A")
    for content in ("", "{}", json.dumps({"model": 3}), tokenizer_json.read_text()[:200]):
        damaged = tmp_path / "damaged.json"
        damaged.write_text(content)
        with pytest.raises(ModelError, match=r"not a tokenizer\.json"):
            BpeTokenizer(damaged).encode("A")


def test_the_room_does_not_load_torch():
    program = "import sys, virnucpro.tokens.dna, virnucpro.tokens.protein, virnucpro.models.specs"
    check = "; assert not {'torch', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program + check], check=True)
