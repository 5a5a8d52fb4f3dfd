"""Training windows: the ORF of prediction, the seed, the record's borders, the noise."""

import numpy as np
import torch

from virnucpro.encoders.tokenizers import BASE_PAD, RESIDUES, LetterTokenizer
from virnucpro.sequences.orfs import OrfPolicy, find_orfs
from virnucpro.training.corpus import OTHER, VIRUS, Corpus, Label
from virnucpro.training.jobs import Noise
from virnucpro.training.sampler import WindowSampler, orient

CLEAN = Noise(substituted_share=0, indel_share=0, unknown_share=0, converted_share=0)
CORPUS = Corpus.of(
    [
        (Label(VIRUS, "virus", "a"), "a1", np.zeros(400, np.uint8)),
        (Label(VIRUS, "virus", "b"), "b1", np.full(90, 3, np.uint8)),
        (Label(OTHER, "bacteria", "c"), "c1",
         np.random.default_rng(0).integers(0, 4, 900).astype(np.uint8)),
    ]
)  # fmt: skip


def _sampler(weights, noise=CLEAN, corpus=CORPUS):
    return WindowSampler(corpus, np.array(weights, float), torch.device("cpu"), noise)


def test_training_sees_the_orf_that_prediction_finds():
    rng = np.random.default_rng(5)
    letters = [
        "".join("ACGT"[k] for k in rng.integers(0, 4, n)) for n in rng.integers(60, 300, 200)
    ]
    letters[:40] = [s[:20] + "N" * (i % 20) + s[20 + i % 20 :] for i, s in enumerate(letters[:40])]
    lengths = torch.tensor([len(s) for s in letters])
    rows = torch.full((len(letters), int(lengths.max())), BASE_PAD)
    for row, s in zip(rows, letters, strict=True):
        row[: len(s)] = torch.from_numpy(LetterTokenizer("mini-dna").encode(s))
    windows = orient(rows, lengths)
    orfs = find_orfs(letters, OrfPolicy("longest", 1))
    runs = [sorted(map(len, find_orfs([one], OrfPolicy("longest")).protein)) for one in letters]
    clear = [i for i, sizes in enumerate(runs) if len(sizes) < 2 or sizes[-1] > sizes[-2]]
    assert len(clear) > 150  # of equals training takes any
    for i in clear:
        dna = "".join("ACGTN"[k] for k in windows.bases[i, : windows.lengths[i]])
        protein = "".join(
            f"{RESIDUES}X"[k] for k in windows.residues[i, : windows.residue_lengths[i]]
        )
        assert (dna, protein) == (orfs.dna[i].decode(), orfs.protein[i].decode())


def test_windows_follow_from_the_seed_and_the_weights():
    weights = np.array([4.0 if g.group == "b" else 1.0 for g in CORPUS.groups])
    sampler = _sampler(weights, Noise())
    first, again = sampler.draw(4000, 150, 200, 7), sampler.draw(4000, 150, 200, 7)
    assert torch.equal(first[0].bases, again[0].bases) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0].bases, sampler.draw(4000, 150, 200, 8)[0].bases)
    share = torch.bincount(first[2], minlength=3) / 4000
    np.testing.assert_allclose(share.numpy(), weights / weights.sum(), atol=0.03)


def test_windows_hold_their_record_and_no_more():
    windows, target, group = _sampler([1, 1, 1]).draw(300, 150, 200, 1)
    for i, bases in enumerate(windows.bases):
        label, length = CORPUS.groups[int(group[i])], int(windows.lengths[i])
        assert int(target[i]) == label.target
        assert (bases[length:] == BASE_PAD).all()
        if label.group in "ab":
            assert len(set(bases[:length].tolist())) == 1
        lowest, highest = (88, 90) if label.group == "b" else (148, 200)
        assert lowest <= length <= highest
