from __future__ import annotations

import numpy as np
import pytest
import torch

from virnucpro.core.errors import ModelError
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.scores.calibration import Calibration
from virnucpro.training.export import export_model, probabilities, save_calibration
from virnucpro.training.model import MiniModel
from virnucpro.training.plain import build
from virnucpro.training.recipe import Recipe
from virnucpro.training.scoring import as_records

RECIPE = build(
    Recipe,
    {
        "dna": {"width": 16, "dilations": [1, 2]},
        "protein": {"width": 16, "taps": 6, "stride": 2, "dilations": [1]},
        "hidden": 16,
    },
    "recipe",
)


@pytest.fixture
def model() -> MiniModel:
    torch.manual_seed(0)
    return MiniModel(RECIPE, 3).eval()


def test_an_exported_model_scores_as_training_saw_it(model, tmp_path):
    export_model(tmp_path, "toy", model, ["bacteria", "virus: a", "null"], 300, "a test")
    scorer = DirectScorer(resolve_model("custom", tmp_path, tmp_path / "home"), "cpu")
    bases = np.random.default_rng(3).integers(0, 4, (20, 300)).astype(np.uint8)
    expected = probabilities(model, bases, rows=7)
    chunks = [contig.chunks[0] for contig in scorer.contigs(list(as_records(bases)))]
    got = np.array([(c.other, c.virus, c.null) for c in chunks])
    np.testing.assert_allclose(got, expected, atol=5e-3)
    assert np.ptp(expected[:, 1]) > 0.01


def test_the_calibration_beside_the_weights_is_part_of_the_model(model, tmp_path):
    export_model(tmp_path / "plain", "toy", model, [], 300, "a test")
    save_calibration(tmp_path / "fitted", Calibration(slope=(2.0,)), "nothing")
    export_model(tmp_path / "fitted", "toy", model, [], 300, "a test")
    plain, fitted = (
        resolve_model("custom", tmp_path / name, tmp_path) for name in ("plain", "fitted")
    )
    assert plain.calibration is None and fitted.calibration is not None
    assert plain.digest != fitted.digest
    (tmp_path / "fitted" / "calibration.json").write_text("{}")
    with pytest.raises(ModelError, match=r"calibration\.json: has 2 bytes"):
        resolve_model("custom", tmp_path / "fitted", tmp_path)
