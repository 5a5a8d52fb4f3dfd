from __future__ import annotations

import numpy as np
import torch

from virnucpro.core.records import Chunk
from virnucpro.encoders.tokenizers import BASE_PAD, RESIDUES, BaseTokenizer
from virnucpro.sequences.orfs import OrfPolicy, find_orfs
from virnucpro.training.corpus import OTHER, VIRUS, Corpus, Label, assemble
from virnucpro.training.sampler import Noise, WindowSampler, orient

CLEAN = Noise(substituted_share=0, indel_share=0, unknown_share=0, converted_share=0)


def _rows(letters: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(s) for s in letters])
    rows = torch.full((len(letters), int(lengths.max())), BASE_PAD)
    for row, s in zip(rows, letters, strict=True):
        row[: len(s)] = torch.from_numpy(BaseTokenizer().encode(s))
    return rows, lengths


def test_training_sees_the_orf_that_prediction_finds():
    rng = np.random.default_rng(5)
    sizes = rng.integers(60, 300, 200)
    letters = ["".join("ACGT"[k] for k in rng.integers(0, 4, n)) for n in sizes]
    windows = orient(*_rows(letters))
    chunks = [Chunk(f"c{i}", s) for i, s in enumerate(letters)]
    found = find_orfs(chunks, OrfPolicy("longest", 1))
    for i, orfs in enumerate(found):
        dna = "".join("ACGTN"[k] for k in windows.bases[i, : windows.lengths[i]])
        protein = "".join(RESIDUES[k] for k in windows.residues[i, : windows.residue_lengths[i]])
        assert (dna, protein) == (orfs[0].dna, orfs[0].protein)


def _corpus() -> Corpus:
    rng = np.random.default_rng(0)
    return assemble(
        [
            (Label(VIRUS, "virus", "a"), "a1", np.zeros(400, np.uint8)),
            (Label(VIRUS, "virus", "b"), "b1", np.full(90, 3, np.uint8)),
            (Label(OTHER, "bacteria", "c"), "c1", rng.integers(0, 4, 900).astype(np.uint8)),
        ]
    )


def test_windows_follow_from_the_seed_and_the_weights():
    corpus = _corpus()
    weights = np.array([g.group == "b" for g in corpus.groups]) * 3.0 + 1.0
    sampler = WindowSampler(corpus, weights, torch.device("cpu"), Noise())
    first, again = sampler.draw(4000, 150, 200, 7), sampler.draw(4000, 150, 200, 7)
    assert torch.equal(first[0].bases, again[0].bases) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0].bases, sampler.draw(4000, 150, 200, 8)[0].bases)
    share = torch.bincount(first[2], minlength=3) / 4000
    np.testing.assert_allclose(share.numpy(), weights / weights.sum(), atol=0.03)


def test_windows_hold_their_record_and_no_more():
    corpus = _corpus()
    sampler = WindowSampler(corpus, np.ones(3), torch.device("cpu"), CLEAN)
    windows, target, group = sampler.draw(300, 150, 200, 1)
    for i in range(300):
        label = corpus.groups[int(group[i])]
        bases = windows.bases[i]
        inside = bases[: int(windows.lengths[i])]
        assert int(target[i]) == label.target
        assert (bases[int(windows.lengths[i]) :] == BASE_PAD).all()
        if label.group in "ab":
            assert len(set(inside.tolist())) == 1
        lowest, highest = (88, 90) if label.group == "b" else (148, 200)
        assert lowest <= len(inside) <= highest


def test_noise_changes_about_as_many_bases_as_it_says():
    corpus = assemble([(Label(OTHER, "x", "x"), "x", np.zeros(2000, np.uint8))])
    noise = Noise(substitutions=0.1, substituted_share=1, indel_share=0, unknown_share=0,
                  converted_share=0)  # fmt: skip
    sampler = WindowSampler(corpus, np.ones(1), torch.device("cpu"), noise)
    bases = sampler.draw(500, 300, 300, 3)[0].bases
    total = (bases < BASE_PAD).sum()
    flipped = (bases == 3).float().mean(dim=1) > 0.5
    same = torch.where(flipped[:, None], bases == 3, bases == 0).sum()
    assert 0.03 < 1 - float(same / total) < 0.07
