"""The model card shows the figures of the result file, and the file is of the bundled model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from virnucpro.models.store import resolve_model

ROOT = Path(__file__).parents[2]


def _maker():
    spec = importlib.util.spec_from_file_location(
        "make_model_card", ROOT / "docs" / "make_model_card.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tables_are_those_of_the_result_file():
    maker = _maker()
    page = maker.PAGE.read_text()
    found = maker.tables(*maker.read_rows())
    assert page == maker.page_with(found, page), "run docs/make_model_card.py"


def test_the_evaluated_model_is_the_bundled_one(tmp_path):
    data = json.loads((ROOT / "benchmarks/results/mini_evaluation.json").read_text())
    assert data["model_digest"] == resolve_model("mini", None, tmp_path).digest
    assert data["windows"] == {
        "lengths": [150, 300, 500, 1000], "count": 2000, "null_count": 500, "seed": 0
    }  # fmt: skip
