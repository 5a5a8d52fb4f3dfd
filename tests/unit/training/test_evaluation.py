"""Figures of scored sequences: against scikit-learn, and row by row."""

import html
import re

import numpy as np
import pytest
from sklearn import metrics as reference

from virnucpro.training import evaluation as figures
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Label
from virnucpro.training.evaluation import COLUMNS, Row, measured, render, write


def _part(name: str, label: Label, p: list[float], calls: list[str], length: int = 500):
    given = enumerate(zip(p, calls, strict=True))
    return [(name, length, *label, f"{name}{i}", p, call) for i, (p, call) in given]


def _scored(*parts):
    return np.rec.fromrecords([row for part in parts for row in part], names=COLUMNS)


VIRAL = _part(
    "known", Label(VIRUS, "virus", "Aviridae"), [0.9, 0.8, 0.3, np.nan],
    ["virus", "virus", "uncertain", ""],
)  # fmt: skip
CELLS = _part(
    "cells", Label(OTHER, "fungi", "yeast"), [0.1, 0.2, 0.85, 0.05],
    ["non-virus", "non-virus", "virus", "non-virus"],
)  # fmt: skip
NULLS = _part("null", Label(NULL, "null", "random"), [0.6, 0.7], ["uncertain", "virus"])


def _row(rows, level, set_name, group=""):
    return next(r for r in rows if (r.level, r.set_name, r.group) == (level, set_name, group))


def test_figures_agree_with_the_reference():
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.3
    p = np.round(np.clip(rng.normal(0.4 + 0.2 * truth, 0.2), 0, 1), 2)  # with ties
    assert figures.auroc(p, truth) == pytest.approx(reference.roc_auc_score(truth, p))
    assert figures.auprc(p, truth) == pytest.approx(reference.average_precision_score(truth, p))
    mcc = figures.mcc(p > 0.5, truth)
    assert mcc == pytest.approx(reference.matthews_corrcoef(truth, p > 0.5))
    fpr, tpr, _ = reference.roc_curve(truth, p, drop_intermediate=False)
    assert figures.recall_at(p, truth, 0.05) == pytest.approx(tpr[fpr <= 0.05].max())


def test_reliability_does_away_with_prevalence():
    rng = np.random.default_rng(1)
    p = rng.random(40_000)
    truth = rng.random(40_000) < p
    kept = ~truth | (rng.random(40_000) < 0.2)  # viruses made rare
    assert figures.reliability(p[kept], truth[kept])[0] < 0.02
    assert figures.reliability(p[kept] ** 2, truth[kept])[0] > 0.1


def test_every_group_has_its_row():
    rows, _ = measured(_scored(VIRAL, CELLS, NULLS))
    known = _row(rows, "set", "known")
    assert (known.count, known.coverage) == (4, 0.75)
    assert (known.virus, known.uncertain, known.non_virus) == (0.5, 0.25, 0.0)
    assert known.auroc == pytest.approx((4 + 3 + 3) / 12)  # against all cells
    assert known.recall_5 == pytest.approx(1 / 3)
    assert _row(rows, "class", "cells", "fungi").virus == 0.25
    null = _row(rows, "null", "null", "random")
    assert null.virus == 0.5 and np.isnan(null.auroc)
    assert _row(rows, "family", "known", "Aviridae").count == 4


def test_a_page_shows_names_as_text(tmp_path):
    odd = Label(VIRUS, "virus", "<script>alert(1)</script>")
    scored = _scored(_part("known", odd, [0.9] * 12, ["virus"] * 12), CELLS)
    facts = {
        "model": "m<b>", "model_digest": "0" * 64, "chunk_nt": 500, "files": ["a&b.fa"],
        "windows": None, "left_out": [], "sequences": 16,
    }  # fmt: skip
    write(tmp_path, facts, *measured(scored))
    page = (tmp_path / "evaluation.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page and "a&amp;b.fa" in page
    table = (tmp_path / "evaluation.tsv").read_text().splitlines()
    assert len({line.count("\t") for line in table}) == 1


FACTS = {
    "model": "m", "model_digest": "0" * 64, "chunk_nt": 500, "files": ["a.fa"],
    "windows": {"lengths": [500, 1000], "count": 9, "null_count": 0, "seed": 0}, "left_out": [],
    "sequences": 4000,
}  # fmt: skip


def row(level="set", group="", count=2000, length=500, set_name="all"):
    return Row(
        length_nt=length, level=level, set_name=set_name, group=group, count=count, coverage=1.0,
        virus=0.9, uncertain=0.0, non_virus=0.1, mean_p=0.5, auroc=0.97,
    )  # fmt: skip


BOTH = [row(), row(group="cellular")]


def test_nothing_may_run_or_be_loaded():
    page = html.unescape(render(FACTS, BOTH, []))
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "unsafe-inline" not in page and "script" not in page
    assert not re.search(r"(?:src|href|style)=|url\(|@import", page)
