"""False discovery rates at a sample's own share of viruses."""

from __future__ import annotations

import numpy as np
import pytest

from virnucpro.scores.composition import Composition, reweighed


def sample(viruses, others, seed=0):
    """Scores calibrated at equal shares, and the truth: log-odds normal around +d and -d.

    With variance 2d the logistic of such a log-odds is the exact posterior at one half.
    """
    draw, d = np.random.default_rng(seed), 2.0
    odds = np.concatenate(
        [draw.normal(d, (2 * d) ** 0.5, viruses), draw.normal(-d, (2 * d) ** 0.5, others)]
    )
    return 1 / (1 + np.exp(-odds)), np.arange(viruses + others) < viruses


def composition_of(p):
    composition = Composition()
    for part in np.array_split(p, 7):
        composition.add(part)
    return composition


def test_bins_agree_with_the_exact_ranked_mean():
    p, _ = sample(3_000, 5_000, seed=3)
    composition = composition_of(p)
    share = composition.estimate().prevalence
    order = np.argsort(-p)
    exact = np.empty(len(p))
    exact[order] = np.cumsum(1 - reweighed(p[order], share)) / np.arange(1, len(p) + 1)
    assert np.max(np.abs(composition.estimate().fdr(p) - exact)) < 0.01


def test_one_record_is_no_proof_of_a_pure_sample():
    curve = composition_of(np.array([0.99])).estimate()
    assert curve.prevalence == pytest.approx(0.5, abs=0.03)
    assert curve.fdr(np.array([0.99]))[0] == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("p", [[], [0.0], [1.0], [0.0] * 1_000, [1.0] * 1_000])
def test_extreme_samples_give_finite_rates(p):
    curve = composition_of(np.array(p, dtype=float)).estimate()
    rates = curve.fdr(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(rates).all()
    assert 0 <= curve.prevalence <= 1


def test_memory_does_not_grow_with_the_sample():
    composition = Composition()
    before = sum(value.nbytes for value in vars(composition).values())
    for seed in range(20):
        composition.add(np.random.default_rng(seed).random(50_000))
    assert sum(value.nbytes for value in vars(composition).values()) == before < 1 << 16
