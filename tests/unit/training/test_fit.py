from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from virnucpro.core.errors import ConfigError, ModelError, UsageError
from virnucpro.training.corpus import OTHER, VIRUS, Corpus, Label, assemble
from virnucpro.training.fit import Fit, FitSettings
from virnucpro.training.plain import build
from virnucpro.training.recipe import Recipe
from virnucpro.training.windows import LabelledWindows, dev_windows

RECIPE = build(
    Recipe,
    {
        "dna": {"width": 16, "dilations": [1]},
        "protein": {"width": 16, "taps": 6, "stride": 2, "dilations": [1]},
        "hidden": 32,
        "steps": 20,
        "null_share": 0.0,
        "virus_share": 0.5,
        "optimiser": "muon",
        "evaluate_every": 10,
        "buckets": [
            {"shortest": 150, "longest": 200, "batch": 32},
            {"shortest": 201, "longest": 255, "batch": 24},
        ],
    },
    "recipe",
)


def _corpus(seed: int) -> Corpus:
    rng = np.random.default_rng(seed)
    share = {VIRUS: [0.35, 0.15, 0.15, 0.35], OTHER: [0.15, 0.35, 0.35, 0.15]}
    return assemble(
        (Label(t, "virus" if t == VIRUS else "bacteria", f"g{i % 3}"), f"r{t}{i}",
         rng.choice(4, 600, p=share[t]).astype(np.uint8))
        for t in (VIRUS, OTHER) for i in range(6)
    )  # fmt: skip


@pytest.fixture(scope="module")
def dev() -> list[LabelledWindows]:
    whole = _corpus(1)
    viral = np.array([whole.groups[g].target == VIRUS for g in whole.group_of])
    rows = [(whole.groups[whole.group_of[i]], whole.ids[i],
             whole.bases[whole.starts[i] : whole.ends[i]]) for i in range(12)]  # fmt: skip
    sets = {
        "virus": assemble(r for r, v in zip(rows, viral, strict=True) if v),
        "cells": assemble(r for r, v in zip(rows, viral, strict=True) if not v),
    }
    return dev_windows(sets, (150,), 40, 0, 0)


def _fit(folder, dev, recipe: Recipe = RECIPE, stop_after: float = float("inf")) -> Fit:
    settings = FitSettings(
        folder=folder, device=torch.device("cpu"), progress=False, stop_after=stop_after
    )
    return Fit(_corpus(0), dev, recipe, settings)


def _weights(fit: Fit) -> list[torch.Tensor]:
    return [*fit.model.state_dict().values(), *fit.average.state().values()]


def test_twenty_steps_learn_and_equal_seeds_give_equal_weights(tmp_path, dev):
    first, second = _fit(tmp_path / "a", dev), _fit(tmp_path / "b", dev)
    report = first.run()
    second.run()
    assert report.finished and report.steps == 20 and report.best > 0.95
    assert all(torch.equal(a, b) for a, b in zip(_weights(first), _weights(second), strict=True))
    other = _fit(tmp_path / "c", dev, replace(RECIPE, seed=1))
    other.run()
    assert not torch.equal(_weights(first)[0], _weights(other)[0])


def test_a_paused_run_goes_on_to_the_same_weights(tmp_path, dev):
    whole = _fit(tmp_path / "whole", dev)
    whole.run()
    pauses = 0
    while True:
        part = _fit(tmp_path / "parts", dev, stop_after=0.0 if pauses < 3 else float("inf"))
        if part.run().finished:
            break
        pauses += 1
    assert pauses == 3
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole), _weights(part), strict=True))
    assert whole.load_best() == part.load_best()


def test_another_recipe_does_not_go_on_from_a_run(tmp_path, dev):
    _fit(tmp_path, dev, stop_after=0.0).run()
    with pytest.raises(UsageError, match="another recipe"):
        _fit(tmp_path, dev, replace(RECIPE, rate=1.0)).run()


def test_other_data_does_not_go_on_from_a_run(tmp_path, dev):
    assert not _fit(tmp_path, dev, stop_after=0.0).run().finished
    other = Fit(_corpus(5), dev, RECIPE, FitSettings(folder=tmp_path, device=torch.device("cpu")))
    with pytest.raises(UsageError, match="other data"):
        other.run()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", pickle.dumps({"made_from": print}, 2)])
def test_a_damaged_state_is_told_with_its_remedy(tmp_path, dev, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(ModelError, match=r"last\.pt: (damaged|refused)"):
        _fit(tmp_path, dev).run()


def test_looks_after_the_saved_state_are_forgotten(tmp_path, dev):
    assert not _fit(tmp_path, dev, stop_after=0.0).run().finished
    rows = "step\twindows\n0\t1\n10\t2\n"
    (tmp_path / "progress.tsv").write_text(rows)
    assert _fit(tmp_path, dev).run().finished
    steps = [row.split("\t")[0] for row in (tmp_path / "progress.tsv").read_text().splitlines()]
    assert steps == ["step", "0", "10", "20"]


def test_training_stops_early_without_progress(tmp_path, dev):
    recipe = replace(RECIPE, rate=0.0, muon_rate=0.0, steps=1000, evaluate_every=2, patience=3)
    report = _fit(tmp_path, dev, recipe).run()
    assert report.finished and report.steps < 20


def test_weights_cannot_be_chosen_on_one_class(tmp_path, dev):
    with pytest.raises(ConfigError, match="viruses and others"):
        _fit(tmp_path, [w for w in dev if w.name == "virus"])


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="no setting named speed"):
        build(Recipe, {"dna": {"width": 8}, "protein": {"width": 8}, "speed": 1}, "recipe")
    with pytest.raises(ConfigError):
        build(Recipe, {"dna": {"width": 8, "colour": 1}, "protein": {"width": 8}}, "recipe")
