"""False discovery rates at a sample's own share of viruses."""

import numpy as np
import pytest

from virnucpro.scores.composition import Composition, Mix
from virnucpro.scores.kinds import COLUMNS, KINDS, Kinds


def sample(viruses, others, seed=0):
    """Scores calibrated at equal shares, and the truth: log-odds normal around +d and -d.

    With variance 2d the logistic of such a log-odds is the exact posterior at one half.
    """
    draw, d = np.random.default_rng(seed), 2.0
    odds = np.concatenate(
        [draw.normal(d, (2 * d) ** 0.5, viruses), draw.normal(-d, (2 * d) ** 0.5, others)]
    )
    return 1 / (1 + np.exp(-odds)), np.arange(viruses + others) < viruses


def composition_of(p, mix=None, hosts=-1, lengths=500, are_pairs=False):
    composition = Composition(mix or Mix(), are_pairs)
    every = np.broadcast_to(lengths, p.shape), np.broadcast_to(hosts, p.shape)
    for rows in np.array_split(np.arange(len(p)), 7):
        composition.add(p[rows], every[0][rows], every[1][rows])
    return composition


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5])
def test_the_share_its_interval_and_the_rates_are_those_of_the_sample(share):
    inside = told = 0
    for seed in range(10):
        p, is_viral = sample(round(share * 4_000), round((1 - share) * 4_000), seed)
        found = composition_of(p).estimate()
        inside += found.low <= share <= found.high
        told += found.compatible_with_none
        chosen = p >= 0.95
        if share >= 0.2:
            fdr, true = found.fdr(p[chosen]).max(), 1 - is_viral[chosen].mean()
            assert fdr == pytest.approx(true, abs=0.03)
            assert found.prevalence == pytest.approx(share, abs=0.05)
        p_sample = found.p_sample(p, np.full(len(p), 500))
        assert p_sample.sum() == pytest.approx(found.prevalence * len(p), abs=0.04 * len(p))
    assert inside >= 8
    assert told >= 9 if share == 0 else told == 0


BACTERIA, PLANTS = 0, 1
# Of bacteria twice as many score high as p_virus tells; of plants, a tenth.
CLASSES = Mix.of({
    "lengths_nt": [150, 500], "shares": [0.5, 0.5],
    "viral": [[1.0] * 5] * 3,
    "cellular": [[[0.9, 1, 1, 1.5, 1.9], [1.1, 1, 1, 0.5, 0.1]]] * 2 + [[[1.0] * 5] * 2],
    "hosts": [[[0.9, 0.1], [0.1, 0.9]]] * 3,
})  # fmt: skip


def test_high_scores_mean_less_among_hosts_that_have_more_of_them():
    p, _ = sample(50, 950)
    high = p[p > 0.95]
    rates = {
        host: composition_of(p, CLASSES, host).estimate().fdr(high).max()
        for host in (BACTERIA, PLANTS, -1)
    }
    assert rates[PLANTS] < 0.3 * rates[-1] < rates[-1] < rates[BACTERIA]
    of_pairs = [composition_of(p, CLASSES, host, are_pairs=True).estimate() for host in (0, 1)]
    assert of_pairs[0].prevalence == of_pairs[1].prevalence  # their table knows no classes


def test_lengths_have_tables_of_their_own():
    rows = [[[2.0] * 5], [[1.0] * 5], [[1.0] * 5]]
    mix = Mix.of({"lengths_nt": [150, 600], "shares": [1], "viral": [[1] * 5] * 3,
                  "cellular": rows, "hosts": [[[1.0]]] * 3})  # fmt: skip
    p, lengths = np.array([0.9, 0.9, 0.1, 0.1]), np.array([299, 301, 100, 9_000])
    found = composition_of(p, mix, lengths=lengths).estimate()
    short, long = found.p_sample(p, lengths)[:2]
    assert (1 / short - 1) == pytest.approx(2 * (1 / long - 1))


@pytest.mark.parametrize("p", [[], [0.0], [1.0], [0.0] * 1_000, [1.0] * 1_000])
def test_extreme_samples_give_finite_rates(p):
    found = composition_of(np.array(p, dtype=float)).estimate()
    rates = found.fdr(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(rates).all()
    assert 0 <= found.low <= found.prevalence <= found.high <= 1


GROUPS = ("bacteria", "RNA virus: Potyviridae", "RNA virus: Picornavirales",
          "virus: unresolved [x]", "bacteriophage: Microviridae")  # fmt: skip


def test_kinds_are_sums_and_orders_are_no_families():
    found = Kinds(GROUPS).columns(np.array([[0.1, 0.2, 0.4, 0.2, 0.1]], np.float32))
    assert found.shape == (1, COLUMNS)
    by_kind = dict(zip(KINDS, found[0].tolist(), strict=False))
    assert by_kind["RNA virus"] == pytest.approx(0.6)
    assert by_kind["bacteriophage"] == pytest.approx(0.1)
    assert by_kind["archaeal virus"] == 0
    assert found[0, -2:].tolist() == [1, pytest.approx(0.2)]  # Potyviridae


def test_a_record_has_the_host_of_most_of_its_letters():
    groups = ("bacteria", "RNA virus: Potyviridae", "plant", "null")
    kinds = Kinds(groups)
    assert kinds.hosts == ["bacteria", "plant"]
    chunks = kinds.columns(np.array([[0.9, 0, 0.1, 0], [0.2, 0, 0.8, 0]], np.float32))
    of = np.array([0, 0])
    for weight, host in (((500.0, 500.0), "bacteria"), ((100.0, 500.0), "plant")):
        found = kinds.of_records(chunks.astype(float), np.array(weight), of, 1)[-1]
        assert kinds.hosts[found[0]] == host
