"""Training the bundled kind: seeds, pauses, damaged states, and the model that comes out."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_data import TINY_RECIPE

from virnucpro.core.config import build
from virnucpro.core.errors import ModelError, UsageError
from virnucpro.encoders.small import TowerEncoder
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.stream import DirectScorer
from virnucpro.scores.calibration import Calibration
from virnucpro.scores.classifier import mini_scores
from virnucpro.scores.kinds import KINDS, Kinds
from virnucpro.training import corpus as corpora
from virnucpro.training.corpus import OTHER, VIRUS, Corpus, Drawing, Label, LabelledWindows
from virnucpro.training.fit import Fit, FitSettings, MiniModel, export_model, logits_of
from virnucpro.training.jobs import Recipe
from virnucpro.training.sampler import oriented

BUCKETS = [{"shortest": 150, "longest": 200, "batch": 32},
           {"shortest": 201, "longest": 255, "batch": 24}]  # fmt: skip
RECIPE = build(
    Recipe,
    {**TINY_RECIPE, "hidden": 32, "steps": 20, "evaluate_every": 10, "null_share": 0.0,
     "virus_share": 0.5, "optimiser": "muon", "buckets": BUCKETS},
    "recipe",
)  # fmt: skip


def _corpus(seed: int) -> Corpus:
    rng = np.random.default_rng(seed)
    share = {VIRUS: [0.35, 0.15, 0.15, 0.35], OTHER: [0.15, 0.35, 0.35, 0.15]}
    return Corpus.of(
        (Label(t, "virus" if t == VIRUS else "bacteria", f"g{i % 3}"), f"r{t}{i}",
         rng.choice(4, 600, p=share[t]).astype(np.uint8))
        for t in (VIRUS, OTHER) for i in range(6)
    )  # fmt: skip


@pytest.fixture(scope="module")
def dev() -> list[LabelledWindows]:
    whole = _corpus(1)
    sets = {"virus": whole.of_groups(whole.targets == VIRUS),
            "cells": whole.of_groups(whole.targets == OTHER)}  # fmt: skip
    return corpora.dev_windows(sets, Drawing(lengths=(150,), count=40, null_count=0, seed=0))


def _settings(folder, **more) -> FitSettings:
    return FitSettings(folder=folder, device=torch.device("cpu"), progress=False, **more)


def _fit(folder, dev, recipe: Recipe = RECIPE, corpus=None, **more) -> Fit:
    fit = Fit(corpus or _corpus(0), dev, recipe, _settings(folder, **more), {})
    fit.run()
    return fit


def _model(recipe: Recipe, groups: int) -> MiniModel:
    towers = TowerEncoder("mini-dna", recipe.dna), TowerEncoder("mini-protein", recipe.protein)
    return MiniModel(*towers, recipe.hidden, groups)


def _exported(folder, model, groups, **calibration) -> ModelSpec:
    folder.mkdir()
    Calibration(**calibration).save(folder / "calibration.json", "nothing")
    export_model(folder, "toy", model, groups, 300, "a test")
    return resolve_model("custom", folder, folder / "home")


def _weights(fit: Fit) -> list[torch.Tensor]:
    return [*fit.model.state_dict().values(), *fit.average.state_dict().values()]


def test_twenty_steps_learn_and_equal_seeds_give_equal_weights(tmp_path, dev):
    first, second = _fit(tmp_path / "a", dev), _fit(tmp_path / "b", dev)
    assert first.finished and first.step == 20 and first.best > 0.95
    assert all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(second), strict=True))
    other = _fit(tmp_path / "c", dev, replace(RECIPE, seed=1))
    assert not torch.equal(_weights(first)[0], _weights(other)[0])


def test_other_data_does_not_go_on_from_a_run(tmp_path, dev):
    _fit(tmp_path, dev, stop_after=0.0)
    with pytest.raises(UsageError, match="other data"):
        _fit(tmp_path, dev, corpus=_corpus(5))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", pickle.dumps({"made_from": print}, 2)])
def test_a_damaged_state_is_told_with_its_remedy(tmp_path, dev, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"last\.pt: (damaged|refused)"):
        _fit(tmp_path, dev)


def test_training_stops_early_without_progress(tmp_path, dev):
    recipe = replace(RECIPE, rate=0.0, muon_rate=0.0, steps=1000, evaluate_every=2, patience=3)
    fit = _fit(tmp_path, dev, recipe)
    assert fit.finished and fit.step < 20


def test_an_exported_model_scores_as_training_saw_it_with_its_calibration(tmp_path):
    torch.manual_seed(0)
    model = _model(RECIPE, 3).eval()
    found, groups = {}, ["bacteria", "RNA virus: aidae", "null"]
    for name, calibration in (("plain", {}), ("fitted", {"slope": (2.0,)})):
        found[name] = _exported(tmp_path / name, model, groups, **calibration)
    bases = np.random.default_rng(3).integers(0, 4, (20, 300)).astype(np.uint8)
    logits = logits_of(model, oriented(bases, torch.device("cpu")))
    expected = mini_scores(*logits, Kinds(groups))
    scored = list(DirectScorer(found["plain"], "cpu").shards(corpora.as_records(bases)))
    got = np.concatenate([scores for _, scores in scored])
    np.testing.assert_allclose(got, expected, atol=5e-3)
    assert np.ptp(expected[:, 1]) > 0.01 and np.ptp(expected[:, 3 + KINDS.index("RNA virus")]) > 0
    assert found["plain"].digest != found["fitted"].digest
    (tmp_path / "fitted" / "calibration.json").write_text("{}")
    with pytest.raises(ModelError, match="were installed"):
        resolve_model("custom", tmp_path / "fitted", tmp_path)


def test_training_begins_with_the_weights_of_a_model_and_stays_near_its_scores(tmp_path, dev):
    first = _fit(tmp_path / "first", dev)
    start = _exported(tmp_path / "toy", first.average, ["a", "b"])
    found = {}
    for distil in (0.0, 1.0):
        recipe = replace(RECIPE, steps=10, seed=1, distil=distil, virus_share=0.02)
        fit = Fit(_corpus(0), dev, recipe, _settings(tmp_path / f"{distil}"), {}, start)
        weights = fit.model.state_dict()
        for name, tensor in first.average.state_dict().items():
            if not name.startswith("classifier.kind"):
                torch.testing.assert_close(weights[name], tensor.half().float())
        fit.run()
        found[distil] = logits_of(fit.model, fit.dev[0][1])[0].softmax(dim=1)
    expected = logits_of(first.average, fit.dev[0][1])[0].softmax(dim=1)
    far, near = (float((found[d] - expected).abs().mean()) for d in (0.0, 1.0))
    assert near < 0.7 * far


def test_worn_copies_of_inserted_viruses_are_no_viruses(tmp_path, dev):
    recipe = replace(RECIPE, decayed=("g1",))
    corpus = corpora.with_made_up(_corpus(0), recipe)
    kinds = {"retro-transcribing virus": ["g1"]}
    assert Fit(corpus, dev, recipe, _settings(tmp_path), kinds).groups == [
        "bacteria", "insertion", "retro-transcribing virus: g1", "virus: g0", "virus: g2",
    ]  # fmt: skip
    worn = [(label, bases) for label, _, bases in corpus.records() if label.kind == "insertion"]
    source = [bases for label, _, bases in _corpus(0).records()
              if label.target == VIRUS and label.group == "g1"]  # fmt: skip
    assert len(worn) == 3 * len(source) and {label.target for label, _ in worn} == {OTHER}
    for _, bases in worn:
        assert 500 < len(bases) < 700
        assert all((bases[:60] != one[:60]).mean() > 0.02 for one in source)


def test_a_narrower_network_begins_with_the_channels_that_add_most(tmp_path, dev):
    first = _fit(tmp_path / "first", dev)
    start = _exported(tmp_path / "toy", first.average, first.groups)
    narrow = replace(RECIPE, dna=replace(RECIPE.dna, hidden=RECIPE.dna.width // 2),
                     protein=replace(RECIPE.protein, hidden=RECIPE.protein.width // 2))  # fmt: skip
    fit = Fit(_corpus(0), dev, narrow, _settings(tmp_path / "run"), {}, start)
    whole = fit.teacher.dna.tower["blocks"][0].up.weight
    kept = fit.model.dna.tower["blocks"][0].up.weight
    assert len(kept) == len(whole) // 2 and all(
        (row == whole).flatten(1).all(1).any() for row in kept
    )
    torch.testing.assert_close(fit.model.classifier.kind.weight, fit.teacher.classifier.kind.weight)
    windows = fit.dev[0][1]
    found, expected = (logits_of(model, windows)[0] for model in (fit.model, fit.teacher))
    fresh = logits_of(_model(narrow, len(fit.groups)), windows)[0]
    assert (found - expected).abs().mean() < 0.5 * (fresh - expected).abs().mean()
