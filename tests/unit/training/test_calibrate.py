from __future__ import annotations

import numpy as np
import pytest

from virnucpro.scores.calibration import Calibration
from virnucpro.training.calibrate import Limits, fit_calibration
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus, Label, assemble
from virnucpro.training.metrics import balanced, ece
from virnucpro.training.windows import dev_windows

PATTERN = np.array([True, True, False])  # weak, weak, strong: viral sequence follows it loosely


def _set(target: int, seed: int) -> Corpus:
    rng = np.random.default_rng(seed)
    kind = "virus" if target == VIRUS else "bacteria"
    return assemble(
        (Label(target, kind, f"g{i}"), f"r{i}", _made_up(rng, target)) for i in range(4)
    )


def _made_up(rng: np.random.Generator, target: int) -> np.ndarray:
    follow = rng.random(6000) < (0.6 if target == VIRUS else 0.5)
    weak = np.where(follow, PATTERN[np.arange(6000) % 3], ~PATTERN[np.arange(6000) % 3])
    coin = rng.integers(0, 2, 6000)
    return np.where(weak, 3 * coin, 1 + coin).astype(np.uint8)


def _too_sure(bases: np.ndarray) -> np.ndarray:
    """Scores by how well the best phase fits the pattern, far too sure; repeats are null."""
    weak, place = np.isin(bases, (0, 3)), np.arange(bases.shape[1])
    fit = np.max([(weak == PATTERN[(place + k) % 3]).mean(axis=1) for k in range(3)], axis=0)
    echo = np.max([(bases[:, k:] == bases[:, :-k]).mean(axis=1) for k in range(1, 13)], axis=0)
    virus = 1 / (1 + np.exp(-np.clip(1.2 * bases.shape[1] * (fit - 0.565), -30, 30)))
    null = np.where(echo > 0.45, 0.9, 0.01)
    return np.stack([(1 - virus) * (1 - null), virus * (1 - null), null], axis=1)


@pytest.fixture(scope="module")
def sets() -> dict[str, Corpus]:
    return {"dev_virus": _set(VIRUS, 1), "dev_cells": _set(OTHER, 2)}


@pytest.fixture(scope="module")
def fitted(sets) -> Calibration:
    return fit_calibration(_too_sure, sets, 300, Limits(cellular=0.05, null=0.02))


def test_probabilities_become_honest(sets, fitted):
    drawn = dev_windows(sets, (150,), 1000, 0, seed=7)
    viral = np.concatenate([[x.target == VIRUS for x in w.labels] for w in drawn])
    scores = np.concatenate([_too_sure(w.bases) for w in drawn])
    lengths, alone = np.full(len(viral), 150), np.arange(len(viral))
    raw = Calibration().contigs(scores, lengths, alone, len(viral))[0]
    p = fitted.contigs(scores, lengths, alone, len(viral))[0]
    before, after = (ece(x, viral, weight=balanced(viral)) for x in (raw, p))
    assert after < 0.05 < 0.1 < before
    assert fitted.slope[0] < 0.8


def test_calls_keep_the_error_rates(sets, fitted):
    drawn = dev_windows(sets, (500,), 300, 300, seed=9)
    for windows in drawn:
        if windows.labels[0].target == VIRUS:
            continue
        n = len(windows.labels)
        calls = fitted.contigs(_too_sure(windows.bases), np.full(n, 500), np.arange(n), n)[1]
        limit = 0.02 if windows.labels[0].target == NULL else 0.05
        assert (calls == "virus").mean() <= limit + 0.02, windows.labels[0]  # other draws


def test_longer_contigs_become_more_certain(fitted):
    assert 0 < fitted.gain <= 1
    assert fitted.limit_lengths_nt == (150, 300, 500, 1000, 2000, 5000)
    assert all(0.5 <= limit < 1 for limit in fitted.virus_above)


def test_chunks_may_be_longer_than_some_contigs(sets):
    longer = fit_calibration(_too_sure, sets, 40, Limits(chunk_nt=1500))
    assert longer.limit_lengths_nt == (150, 300, 500, 1000, 2000, 5000)


def test_repeats_are_uncertain(fitted):
    row = np.tile([0, 3], 250)[None].astype(np.uint8)
    assert fitted.contig(_too_sure(row), np.array([500]))[1] == "uncertain"


def test_one_class_alone_gives_no_calibration(sets):
    assert fit_calibration(_too_sure, {"a": sets["dev_virus"]}, 20) == Calibration()
