"""Protein tokens are those of fair-esm."""

from __future__ import annotations

import pickle

import pytest

from virnucpro.tokens.protein import MAX_RESIDUES, ProteinTokenizer


@pytest.mark.parametrize(
    "protein", ["M", "ACDEFGHIKLMNPQRSTVWY", "XBUZO.-", "MKJ*?", "", "L" * 300, "mkv", "Mµ\u4e2d"]
)
def test_tokens_equal_fair_esm(protein):
    import esm

    alphabet = esm.Alphabet.from_architecture("ESM-1b")
    wanted = [alphabet.cls_idx, *(alphabet.get_idx(aa) for aa in protein), alphabet.eos_idx]
    tokens = ProteinTokenizer().encode(protein)
    assert tokens.dtype == "int64"
    assert tokens.tolist() == wanted


def test_the_start_of_a_long_protein_is_kept():
    tokenizer = ProteinTokenizer()
    tokens = tokenizer.encode("M" + "A" * 2000 + "W")
    assert len(tokens) == MAX_RESIDUES + 2
    assert tokens[1] == tokenizer.encode("M")[1]
    assert tokens[-1] == 2
    assert len(tokenizer.encode("A" * MAX_RESIDUES)) == MAX_RESIDUES + 2


def test_it_travels_to_a_worker():
    tokenizer = pickle.loads(pickle.dumps(ProteinTokenizer(max_residues=3)))
    assert tokenizer.encode("MMMM").tolist() == [0, 20, 20, 20, 2]
