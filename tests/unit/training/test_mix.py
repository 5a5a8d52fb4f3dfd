"""What training measures of each cellular class and of pairs, for samples of any mix."""

import numpy as np
import pytest

from virnucpro.scores.calibration import Calibration
from virnucpro.scores.composition import Mix
from virnucpro.scores.kinds import Kinds
from virnucpro.training.corpus import OTHER, VIRUS, Corpus, Label
from virnucpro.training.mix import fit_mix

GROUPS = ("bacteria", "plant", "RNA virus: Potyviridae", "null")
# Shares of A, C, G and T: A and T speak for a virus, and bacteria have more of them than plants.
LETTERS = {
    "virus": (0.35, 0.15, 0.15, 0.35),
    "bacteria": (0.31, 0.19, 0.19, 0.31),
    "plant": (0.23, 0.27, 0.27, 0.23),
}


def sets() -> dict[str, Corpus]:
    rng = np.random.default_rng(3)
    return {
        name: Corpus.of([
            (Label(VIRUS if name == "virus" else OTHER, name, name), f"{name}{i}",
             rng.choice(4, 4000, p=p).astype(np.uint8))
            for i in range(3)
        ])
        for name, p in LETTERS.items()
    }  # fmt: skip


def score(bases: np.ndarray) -> np.ndarray:
    a = np.isin(bases, (0, 3)).mean(axis=1)
    virus = 1 / (1 + np.exp(-40 * (a - 0.66)))
    is_plant = 1 / (1 + np.exp(80 * (a - 0.54)))
    groups = np.stack([(1 - virus) * (1 - is_plant), (1 - virus) * is_plant, virus, 0 * a], axis=1)
    columns = Kinds(GROUPS).columns(groups.astype(np.float32))
    return np.hstack([np.stack([1 - virus, virus, 0 * a], axis=1), columns])


def test_each_class_is_measured_and_pairs_are_more_certain_than_a_mate():
    found = fit_mix(Calibration(gain=0.4), score, sets(), GROUPS, 500, 100)
    assert found.gain == 0.4 and 0.5 < found.pair_gain <= 1
    mix = found.mix
    assert mix.lengths_nt == (150, 300, 500, 1000, 3000)
    assert sum(mix.shares) == pytest.approx(1, abs=0.01)
    for of_length, hosts in zip(mix.cellular, mix.hosts, strict=True):
        bacteria, plant = of_length
        assert bacteria[3] > plant[3]
        assert hosts[0][0] > 0.8 and hosts[1][1] > 0.8
    assert mix.cellular[0][0][3] > 2 * mix.cellular[0][1][3]


def test_without_classes_or_viruses_nothing_is_measured():
    known = Calibration()
    only = {name: corpus for name, corpus in sets().items() if name != "virus"}
    assert fit_mix(known, score, only, GROUPS, 500, 20) == known
    assert fit_mix(known, score, sets(), ("RNA virus: Potyviridae",), 500, 20).mix == Mix()
