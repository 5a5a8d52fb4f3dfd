from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from virnucpro.training import metrics
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Label
from virnucpro.training.evaluation_report import Report
from virnucpro.training.figures import curves_of, rows_of
from virnucpro.training.scoring import Scored


def _scored(name: str, label: Label, p: list[float], calls: list[str], length: int = 500):
    ids = tuple(f"{name}{i}" for i in range(len(p)))
    return Scored(name, length, (label,) * len(p), ids, np.array(p), np.array(calls, "<U9"))


VIRAL = _scored(
    "known", Label(VIRUS, "virus", "Aviridae"), [0.9, 0.8, 0.3, np.nan],
    ["virus", "virus", "uncertain", ""],
)  # fmt: skip
CELLS = _scored(
    "cells", Label(OTHER, "fungi", "yeast"), [0.1, 0.2, 0.85, 0.05],
    ["non-virus", "non-virus", "virus", "non-virus"],
)  # fmt: skip
NULLS = _scored("null", Label(NULL, "null", "random"), [0.6, 0.7], ["uncertain", "virus"])


def _row(rows, level, set_name, group=""):
    return next(r for r in rows if (r.level, r.set_name, r.group) == (level, set_name, group))


def test_figures_agree_with_the_reference():
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.3
    p = np.round(np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1), 2)  # with ties
    assert metrics.auroc(p, truth) == pytest.approx(reference.roc_auc_score(truth, p))
    assert metrics.auprc(p, truth) == pytest.approx(reference.average_precision_score(truth, p))
    assert metrics.mcc(p > 0.5, truth) == pytest.approx(reference.matthews_corrcoef(truth, p > 0.5))
    fpr, tpr, _ = reference.roc_curve(truth, p, drop_intermediate=False)
    assert metrics.recall_at(p, truth, 0.05) == pytest.approx(tpr[fpr <= 0.05].max())


def test_balanced_weights_do_away_with_prevalence():
    rng = np.random.default_rng(1)
    p = rng.random(40_000)
    truth = rng.random(40_000) < p
    kept = ~truth | (rng.random(40_000) < 0.2)  # viruses made rare
    p, truth = p[kept], truth[kept]
    assert metrics.ece(p, truth) > 0.15
    assert metrics.ece(p, truth, weight=metrics.balanced(truth)) < 0.02


def test_a_viral_set_is_measured_against_all_cells():
    row = _row(rows_of([VIRAL, CELLS, NULLS]), "set", "known")
    assert row.count == 4 and row.coverage == 0.75
    assert (row.virus, row.uncertain, row.non_virus) == (0.5, 0.25, 0.0)
    assert row.auroc == pytest.approx((4 + 3 + 3) / 12)
    assert row.recall_5 == pytest.approx(1 / 3)


def test_cells_and_nulls_have_their_rows():
    rows = rows_of([VIRAL, CELLS, NULLS])
    assert _row(rows, "class", "cells", "fungi").virus == 0.25
    null = _row(rows, "null", "null", "random")
    assert null.virus == 0.5 and np.isnan(null.auroc)
    assert _row(rows, "family", "known", "Aviridae").count == 4


def test_sets_are_measured_once_more_without_some_records():
    rows = rows_of([VIRAL, CELLS], frozenset({"known2", "known3"}))
    assert _row(rows, "set", "known").count == 4
    less = _row(rows, "set", "known (less)")
    assert less.count == 2 and less.coverage == 1.0


def test_lengths_stay_apart():
    short = _scored("known", Label(VIRUS, "virus", "a"), [0.6], ["virus"], 150)
    rows = rows_of([VIRAL, CELLS, short])
    assert sum(r.level == "set" and r.set_name == "known" for r in rows) == 2
    assert [c.length_nt for c in curves_of([VIRAL, CELLS, short])] == [500]


def test_a_page_shows_names_as_text(tmp_path):
    odd = Label(VIRUS, "virus", "<script>alert(1)</script>")
    sets = [_scored("known", odd, [0.9] * 12, ["virus"] * 12), CELLS]
    facts = {
        "model": "m<b>", "model_digest": "0" * 64, "chunk_nt": 500, "files": ["a&b.fa"],
        "windows": None, "left_out": [], "sequences": 16,
    }  # fmt: skip
    Report(facts, rows_of(sets), curves_of(sets)).write(tmp_path)
    page = (tmp_path / "evaluation.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "a&amp;b.fa" in page
    table = (tmp_path / "evaluation.tsv").read_text().splitlines()
    assert len({line.count("\t") for line in table}) == 1
