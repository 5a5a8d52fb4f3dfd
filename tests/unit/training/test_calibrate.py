"""The calibration that training fits: honest probabilities, bounded error rates."""

import numpy as np
import pytest

from virnucpro.scores.calibration import Calibration
from virnucpro.scores.composition import Mix
from virnucpro.scores.kinds import Kinds
from virnucpro.training.calibrate import Scored, fit_calibration, fit_mix, fit_pairs
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Corpus, Drawing, Label, dev_windows
from virnucpro.training.evaluation import reliability

PATTERN = np.array([True, True, False])  # weak, weak, strong: viral sequence follows it loosely


def _set(target: int, seed: int) -> Corpus:
    rng = np.random.default_rng(seed)
    kind, place = "virus" if target == VIRUS else "bacteria", np.arange(6000) % 3

    def made_up() -> np.ndarray:
        follow = rng.random(6000) < (0.6 if target == VIRUS else 0.5)
        coin = rng.integers(0, 2, 6000)
        weak = np.where(follow, PATTERN[place], ~PATTERN[place])
        return np.where(weak, 3 * coin, 1 + coin).astype(np.uint8)

    return Corpus.of((Label(target, kind, f"g{i}"), f"r{i}", made_up()) for i in range(4))


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
    return fit_calibration(_too_sure, sets, 300, 500)


def _drawn(sets, length, count, nulls, seed):
    for windows in dev_windows(sets, Drawing((length,), count, nulls, seed)):
        n = len(windows.labels)
        sizes = np.full(n, length)
        yield windows, (_too_sure(windows.bases), sizes, np.arange(n), sizes)


def test_probabilities_become_honest(sets, fitted):
    drawn = list(_drawn(sets, 150, 1000, 0, 7))
    viral = np.concatenate([[x.target == VIRUS for x in w.labels] for w, _ in drawn])
    before, after = (
        reliability(np.concatenate([how.contigs(*scores)[0] for _, scores in drawn]), viral)[0]
        for how in (Calibration(), fitted)
    )
    assert after < 0.05 < 0.1 < before
    assert fitted.slope[0] < 0.8


def test_calls_keep_the_error_rates(sets, fitted):
    for windows, scores in _drawn(sets, 500, 300, 300, 9):
        label = windows.labels[0]
        if label.target != VIRUS:
            limit = 0.006 if label.target == NULL else 0.03
            calls = fitted.contigs(*scores)[1]
            assert (calls == "virus").mean() <= limit + 0.02, label  # other draws


def test_longer_contigs_become_more_certain(sets, fitted):
    assert 0 < fitted.gain <= 1
    assert all(0.5 <= limit < 1 for limit in fitted.virus_above)
    chunks_longer_than_some = fit_calibration(_too_sure, sets, 40, 1500)
    for found in (fitted, chunks_longer_than_some):
        assert found.limit_lengths_nt == (150, 300, 500, 1000, 2000, 5000)


GROUPS = ("bacteria", "plant", "RNA virus: Potyviridae", "null")
# Shares of A, C, G and T: A and T speak for a virus, and bacteria have more of them than plants.
LETTERS = {
    "virus": (0.35, 0.15, 0.15, 0.35),
    "bacteria": (0.31, 0.19, 0.19, 0.31),
    "plant": (0.23, 0.27, 0.27, 0.23),
}


def classes() -> dict[str, Corpus]:
    rng = np.random.default_rng(3)
    found = {}
    for name, p in LETTERS.items():
        label = Label(VIRUS if name == "virus" else OTHER, name, name)
        letters = rng.choice(4, (3, 4000), p=p).astype(np.uint8)
        found[name] = Corpus.of((label, f"{name}{i}", row) for i, row in enumerate(letters))
    return found


def score(bases: np.ndarray) -> np.ndarray:
    a = np.isin(bases, (0, 3)).mean(axis=1)
    virus = 1 / (1 + np.exp(-40 * (a - 0.66)))
    is_plant = 1 / (1 + np.exp(80 * (a - 0.54)))
    groups = np.stack([(1 - virus) * (1 - is_plant), (1 - virus) * is_plant, virus, 0 * a], axis=1)
    columns = Kinds(GROUPS).columns(groups.astype(np.float32))
    return np.hstack([np.stack([1 - virus, virus, 0 * a], axis=1), columns])


def test_mates_that_agree_on_a_virus_speak_for_it_and_those_that_agree_on_a_host_against_it():
    rng = np.random.default_rng(4)
    scored = []
    for odds, likeness in ((1.0, (0.5, 0.8, 0.1)), (-1.0, (0.5, 0.3, 0.6))):
        p = 1 / (1 + np.exp(-rng.normal(odds, 1, 400)))
        alike = np.clip(rng.normal(likeness, 0.3, (400, 3)), 0, 1)
        alike[:9] = np.nan  # of pairs with one mate that has a score
        nothing = np.zeros(400, np.int64)
        scored.append(Scored(p, np.empty(400, "<U9"), nothing, nothing, alike))
    found = fit_pairs(Calibration(), np.full(2, 0.5), np.array([True, False]), scored)
    phage, kind, host = found.pair_likeness
    assert host < -1 < 1 < kind and abs(phage) < 1 and 0.3 < found.pair_gain <= 1
    scores = np.array([[0.3, 0.7, 0.0]])
    one = found.log_odds(scores, np.array([150]))
    of, sizes = np.zeros(1, np.int64), np.array([150])
    alone, _ = found.contigs(scores, sizes, of, sizes, alike=np.full((1, 3), np.nan))
    assert np.log(alone / (1 - alone)) == pytest.approx(one)


def test_each_class_is_measured():
    mix = fit_mix(Calibration(gain=0.4), score, classes(), GROUPS, 500, 100).mix
    assert mix.lengths_nt == (150, 300, 500, 1000, 3000)
    assert sum(mix.shares) == pytest.approx(1, abs=0.01)
    for of_length, hosts in zip(mix.cellular, mix.hosts, strict=True):
        bacteria, plant = of_length
        assert bacteria[3] > plant[3]
        assert hosts[0][0] > 0.5 and hosts[1][1] > 0.8
    assert mix.cellular[0][0][3] > 2 * mix.cellular[0][1][3]


def test_without_classes_or_viruses_nothing_is_measured(sets):
    known = Calibration()
    assert fit_calibration(_too_sure, {"a": sets["dev_virus"]}, 20, 500) == known
    only = {name: corpus for name, corpus in classes().items() if name != "virus"}
    assert fit_mix(known, score, only, GROUPS, 500, 20) == known
    assert fit_mix(known, score, classes(), ("RNA virus: Potyviridae",), 500, 20).mix == Mix()
