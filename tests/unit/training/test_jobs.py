"""A training configuration becomes a job, or an error that names file, key and remedy."""

from dataclasses import asdict
from pathlib import Path

import pytest

from virnucpro.core.errors import ConfigError
from virnucpro.core.files import digest_of
from virnucpro.models.store import BUNDLED, model_in
from virnucpro.training.jobs import MlpRecipe, Recipe, read_evaluation, read_job

MINI = Path(__file__).parents[3] / "recipes" / "mini.yaml"
TOWERS = "dna: {width: 8}, protein: {width: 8}"


def test_the_recipe_is_the_one_that_the_bundled_model_names():
    job, recipe = read_job(MINI, Path("data"))
    assert isinstance(recipe, Recipe)
    assert f"recipe {digest_of(asdict(recipe))[:16]}, step " in model_in(BUNDLED).source
    assert (job.name, job.chunk_nt, job.dev_count) == ("mini", 500, 2000)
    assert len(job.data.tables) == 2 and len(job.data.dev) == 3
    assert job.start == Path("data/mini-wide")
    panel = read_evaluation(MINI, None).evaluate
    assert len(panel.leave_out) == 10 and panel.decoys == MINI.parent / "decoys.fa.xz"


def test_the_classifier_decides_what_is_trained_and_numbers_may_be_names(put):
    path = put("{name: 7, classifier: mlp, model: 500, data: {train: [1], table: 2},"
                  " recipe: {rate: 1}}")  # fmt: skip
    job, recipe = read_job(path, None)
    assert (job.name, job.model, recipe) == ("7", "500", MlpRecipe(rate=1))
    assert (job.data.train, job.data.tables) == ((path.parent / "1",), (path.parent / "2",))


def test_settings_without_a_value_are_the_defaults_and_a_bare_null_is_the_class(put):
    text = f"{{data: {{dev: , classes: [virus, null]}}, recipe: {{{TOWERS}, rate: , noise: }}}}"
    job, recipe = read_job(put(text), None)
    assert (job.data.dev, job.data.classes) == ((), ("virus", "null"))
    assert recipe.rate == 2e-3


@pytest.mark.parametrize("read", [read_job, read_evaluation])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [", "YAML"),
        ("- a", "expected sections"),
        ("colour: red", "no setting named colour; it has name, classifier"),
        ("data: {trian: [a.fa]}", "data has no setting named trian; it has train"),
        ("data: {train: a.fa}", r"data.train must be a list, such as \[a, b\], got 'a.fa'"),
        ("evaluate: {decoys: a.fa}", "decoys and decoy_kinds go together"),
        ("evaluate: {leave_out: [1.5]}", r"evaluate.leave_out\[0\] must be text; put quotes"),
        ("chunk_nt: five", "chunk_nt must be a whole number"),
        ("chunk_nt: 0x" + "f" * 6000, "YAML"),
        ("classifier: svm", "classifier must be mini or mlp, got 'svm'"),
    ],
)
def test_a_file_that_says_something_else_is_told(put, read, text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read(put(text), None)
    assert "in.fa: " in str(caught.value) or "in.fa has" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("", "recipe.dna is missing"),
        ("dna: {width: 8, dilations: [1, x]}, protein: {width: 8}", r"dna.dilations\[1\] must be"),
        ("dna: {width: 8, taps: 4}, protein: {width: 8}", "recipe.dna: taps must be"),
        (TOWERS + ", rate: 1e-3", r"recipe.rate must be a number .* 1.0e-3, got '1e-3'"),
        (TOWERS + ", steps: 0", "recipe: hidden, steps"),
        (TOWERS + ", optimiser: [adamw]", r"recipe.optimiser must be adamw or muon, got \['adamw"),
        (TOWERS + ", kind_weights: {plant: big}", "recipe.kind_weights.plant must be a number"),
        (TOWERS + ", noise: {indel: 0.1}", "recipe.noise has no setting named indel"),
        (TOWERS + ", buckets: [{shortest: 9, longest: 8, batch: 1}]", r"\[0\]: needs a batch"),
    ],
)  # fmt: skip
def test_a_recipe_of_other_values_is_told(put, settings, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read_job(put(f"recipe: {{{settings}}}"), None)
    assert "in.fa: recipe" in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("{batch: 1}", "recipe: batch must be 2 or more"),
        ("{epochs: 0}", "epochs must be 1 or more"),
        ("{optimiser: muon}", "recipe.optimiser must be sgd or adamw"),
        ("{steps: 3}", "recipe has no setting named steps"),
        ("&r [*r]", "stands for another value"),
    ],
)
def test_a_recipe_of_the_published_classifier_is_checked_too(put, recipe, told):
    with pytest.raises(ConfigError, match=told):
        read_job(put(f"{{classifier: mlp, recipe: {recipe}}}"), None)
