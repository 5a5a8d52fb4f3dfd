from __future__ import annotations

import json

import numpy as np
import pytest

from virnucpro.core.errors import ModelError
from virnucpro.scores.calibration import Calibration


def _scores(*p_virus: float) -> np.ndarray:
    return np.array([[1 - p, p, 0.0] for p in p_virus])


def test_without_a_calibration_it_is_the_logistic_of_the_mean_log_odds():
    p, call = Calibration.load(None).contig(_scores(0.9, 0.6), np.array([500, 500]))
    odds = (np.log(0.9 / 0.1) + np.log(0.6 / 0.4)) / 2
    assert p == pytest.approx(1 / (1 + np.exp(-odds)))
    assert call == "virus"
    assert Calibration.load(None).contig(_scores(0.2), np.array([500]))[1] == "non-virus"


def test_two_column_scores_and_missing_null_give_the_same():
    lengths = np.array([500, 300])
    three = np.array([[0.3, 0.7, np.nan], [0.6, 0.4, np.nan]])
    assert Calibration().contig(three, lengths) == Calibration().contig(three[:, :2], lengths)


def test_more_chunks_make_more_certain():
    fitted = Calibration(gain=0.5)
    p = [fitted.contig(_scores(*[0.8] * n), np.full(n, 500))[0] for n in (1, 2, 5, 20)]
    assert p == sorted(p) and p[0] == pytest.approx(0.8) and p[-1] > 0.99


def test_slope_and_intercept_follow_the_length():
    fitted = Calibration(lengths_nt=(150.0, 600.0), slope=(1.0, 2.0), intercept=(0.0, 1.0))
    z = np.log(0.7 / 0.3)
    got = fitted.log_odds(_scores(0.7, 0.7, 0.7), np.array([100, 300, 900]))
    assert got == pytest.approx([z, 1.5 * z + 0.5, 2 * z + 1])


def test_between_the_limits_and_for_null_the_call_is_uncertain():
    fitted = Calibration(virus_above=(0.9,), other_below=0.5, null_above=0.3)
    assert fitted.contig(_scores(0.7), np.array([500]))[1] == "uncertain"
    assert fitted.contig(_scores(0.95), np.array([500]))[1] == "virus"
    assert fitted.contig(np.array([[0.0, 0.65, 0.35]]), np.array([500]))[1] == "uncertain"


def test_many_contigs_at_once_equal_one_by_one():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1, 1, 0.2], 60)
    lengths = rng.integers(100, 900, 60)
    contig_of = rng.integers(0, 12, 60)
    fitted = Calibration(gain=0.4, virus_above=(0.8,), null_above=0.4)
    sizes = np.bincount(contig_of, lengths, minlength=13).astype(int)
    p, calls = fitted.contigs(scores, lengths, contig_of, sizes)
    for i in range(12):
        inside = contig_of == i
        one = fitted.contig(scores[inside], lengths[inside])
        assert p[i] == pytest.approx(one[0]) and calls[i] == one[1]
    assert np.isnan(p[12])


def test_chunks_that_overlap_are_no_further_evidence():
    fitted, lengths = Calibration(gain=0.5), np.full(3, 500)
    of, scores = np.zeros(3, dtype=int), _scores(0.8, 0.8, 0.8)
    overlapping = fitted.contigs(scores, lengths, of, np.array([1000]))[0]
    apart = fitted.contigs(scores[:2], lengths[:2], of[:2], np.array([1000]))[0]
    assert overlapping == pytest.approx(apart)


@pytest.mark.parametrize(
    ("p_virus", "clear", "hidden", "call"),
    [
        (0.05, 900, 0, "non-virus"), (0.05, 900, 100, "non-virus"), (0.05, 600, 400, "uncertain"),
        (1e-6, 600, 400, "non-virus"), (0.97, 600, 400, "virus"), (0.97, 140, 20, "virus"),
        (0.97, 140, 150, "uncertain"),
    ],
)  # fmt: skip
def test_n_makes_no_non_virus(p_virus, clear, hidden, call):
    one = np.array([0])
    found = Calibration().contigs(_scores(p_virus), one + clear, one, one + clear, one + hidden)
    assert found[1].tolist() == [call]
    assert found[0] == pytest.approx([p_virus])


def test_saved_parameters_load_as_they_were(tmp_path):
    path = tmp_path / "calibration.json"
    fitted = Calibration(lengths_nt=(1.0, 2.0), slope=(1.0, 3.0), intercept=(0.5, 0.0), gain=0.3)
    fitted.save(path, "toy")
    assert Calibration.load(path) == fitted


@pytest.mark.parametrize(
    "change",
    [
        {"format": 9}, {"extra": 1}, {"slope": [0.0]}, {"slope": ["1"]}, {"slope": [True]},
        {"slope": 1.0}, {"slope": []}, {"slope": [[1.0]]}, {"slope": [1.0, 1.0]},
        {"slope": [float("nan")]}, {"intercept": [float("inf")]}, {"intercept": [1e300]},
        {"intercept": "0"}, {"lengths_nt": [-5.0]}, {"lengths_nt": [0]}, {"gain": "x"},
        {"gain": -1}, {"gain": 9}, {"gain": None}, {"gain": [0.5]}, {"other_below": "0.5"},
        {"other_below": None}, {"other_below": 2}, {"null_above": None}, {"null_above": [1]},
        {"null_above": float("nan")}, {"virus_above": [2.0]}, {"virus_above": []},
        {"limit_lengths_nt": [500.0, 500.0], "virus_above": [0.5, 0.5]},
        {"limit_lengths_nt": [500.0, 300.0], "virus_above": [0.5, 0.5]},
        {"limit_lengths_nt": list(range(1, 2000)), "virus_above": [0.5] * 1999},
    ],
    ids=lambda change: json.dumps(change)[:40],
)  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(change, tmp_path):
    path = tmp_path / "calibration.json"
    Calibration().save(path, "toy")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError):
        Calibration.load(path)
