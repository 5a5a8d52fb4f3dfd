"""A training configuration becomes a job, or an error that names file, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from virnucpro.core.errors import ConfigError
from virnucpro.training.jobs import read_evaluation, read_job
from virnucpro.training.mlp import MlpRecipe
from virnucpro.training.recipe import Recipe

MINI = Path(__file__).parents[3] / "recipes" / "mini.yaml"
MINI_DIGEST = "961cb69838c9628c45c880e791d13e1672f915c3909d9b4fa3d5f99ac850f984"
TOWERS = "dna: {width: 8}, protein: {width: 8}"


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


def test_the_recipe_of_the_bundled_model_is_the_same_as_ever():
    job, recipe = read_job(MINI, Path("data"))
    assert isinstance(recipe, Recipe) and recipe.digest == MINI_DIGEST
    assert (job.name, job.chunk_nt, job.dev_count) == ("mini", 500, 2000)
    assert job.data.table == Path("data/meta.tsv.xz") and len(job.data.dev) == 3
    assert len(read_evaluation(MINI, None).evaluate.leave_out) == 10


def test_the_classifier_decides_what_is_trained(config):
    path = config(
        "{name: 7, classifier: mlp, model: 500, data: {train: [a.fa]}, recipe: {rate: 1}}"
    )
    job, recipe = read_job(path, None)
    assert (job.name, job.model, recipe) == ("7", "500", MlpRecipe(rate=1))
    assert job.data.train == (path.parent / "a.fa",)


def test_a_bare_null_in_a_list_is_the_class(config):
    path = config(
        f"{{data: {{train: [a.fa, b.fa], classes: [virus, null]}}, recipe: {{{TOWERS}}}}}"
    )
    assert read_job(path, None)[0].data.classes == ("virus", "null")


WRONG_FILES = [
    ("a: [", "YAML"),
    ("\x00", "YAML"),
    ("- a", "expected sections"),
    ("[1, 2", "YAML"),
    ("colour: red", "no setting named colour; it has name, classifier"),
    ("data: a.fa", "data must be a mapping"),
    ("data: {trian: [a.fa]}", "data has no setting named trian; it has train"),
    ("data: {train: a.fa}", r"data.train must be a list, such as \[a, b\], got 'a.fa'"),
    ("data: {dev: {a: b}}", "data.dev must be a list"),
    ("data: {dev: [[a.fa]]}", r"data.dev\[0\] must be the name of a file"),
    ("data: {table: [a.tsv]}", "data.table must be the name of a file"),
    ("data: {classes: virus}", "data.classes must be a list"),
    ("evaluate: {leave_out: v1}", "evaluate.leave_out must be a list"),
    ("evaluate: {leave_out: [1.5]}", r"evaluate.leave_out\[0\] must be text; put quotes"),
    ("chunk_nt: five", "chunk_nt must be a whole number"),
    ("dev_count: 0", "must be 1 or more"),
    ("name: [a]", "name must be text"),
    ("chunk_nt: 0x" + "f" * 6000, "YAML"),
    ("data: {train: [1" + ":1" * 6000 + "]}", "YAML"),
    ("classifier: svm", "classifier must be mini or mlp, got 'svm'"),
]


def test_a_file_may_be_called_by_a_number(config):
    path = config("{classifier: mlp, data: {train: [1], table: 2}}")
    assert [read_job(path, None)[0].data.table] == [path.parent / "2"]
    assert read_job(path, None)[0].data.train == (path.parent / "1",)


@pytest.mark.parametrize("read", [read_job, read_evaluation])
@pytest.mark.parametrize(("text", "told"), WRONG_FILES)
def test_a_file_that_says_something_else_is_told(config, read, text, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read(config(text), None)
    assert "mine.yaml: " in str(caught.value) or "mine.yaml has" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("", "recipe.dna is missing"),
        ("dna: 8, protein: {width: 8}", "recipe.dna must be a mapping"),
        ("dna: {}, protein: {width: 8}", "recipe.dna.width is missing"),
        ("dna: {width: 8, dilations: 1}, protein: {width: 8}", "recipe.dna.dilations must be a"),
        ("dna: {width: 8, dilations: [1, x]}, protein: {width: 8}", r"dna.dilations\[1\] must be"),
        ("dna: {width: 8, taps: 4}, protein: {width: 8}", "recipe.dna: taps must be"),
        ("dna: {width: 8, dilations: [0]}, protein: {width: 8}", "recipe.dna: sizes must be"),
        ("dna: {width: 8, stride: 0}, protein: {width: 8}", "recipe.dna: "),
        (TOWERS + ", rate: 1e-3", r"recipe.rate must be a number .* 1.0e-3, got '1e-3'"),
        (TOWERS + ", rate: .nan", "recipe.rate must be a number"),
        (TOWERS + ", rate: -1", "recipe.rate must be a number"),
        (TOWERS + ", steps: 1.5", "recipe.steps must be a whole number"),
        (TOWERS + ", steps: yes", "recipe.steps must be a whole number"),
        (TOWERS + ", steps: 0", "recipe: hidden, steps"),
        (TOWERS + f", seed: {10**30}", "recipe.seed must be a whole number"),
        (TOWERS + ", optimiser: sgd", "recipe.optimiser must be adamw or muon, got 'sgd'"),
        (TOWERS + ", optimiser: [adamw]", "recipe.optimiser must be adamw or muon"),
        (TOWERS + ", kind_weights: {plant: big}", "recipe.kind_weights.plant must be a number"),
        (TOWERS + ", kind_weights: {1.5: 2}", "the name must be text"),
        (TOWERS + ", kind_weights: [plant]", "recipe.kind_weights must be a mapping"),
        (TOWERS + ", noise: {indel: 0.1}", "recipe.noise has no setting named indel"),
        (TOWERS + ", buckets: []", "recipe: buckets must hold"),
        (TOWERS + ", buckets: [8]", r"recipe.buckets\[0\] must be a mapping"),
        (TOWERS + ", buckets: [{shortest: 9, longest: 8, batch: 1}]", r"\[0\]: needs a batch"),
        (TOWERS + ", smoothing: 2", "must be 1 or less"),
        (TOWERS + ", speed: 1", "recipe has no setting named speed; it has dna, protein"),
    ],
)  # fmt: skip
def test_a_recipe_of_other_values_is_told(config, settings, told):
    with pytest.raises(ConfigError, match=told) as caught:
        read_job(config(f"recipe: {{{settings}}}"), None)
    assert "mine.yaml: recipe" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("batch: 1", "recipe: batch must be 2 or more"),
        ("epochs: 0", "epochs must be 1 or more"),
        ("rate: fast", "recipe.rate must be a number"),
        ("optimiser: muon", "recipe.optimiser must be sgd or adamw"),
        ("steps: 3", "recipe has no setting named steps"),
    ],
)
def test_a_recipe_of_the_published_classifier_is_checked_too(config, settings, told):
    with pytest.raises(ConfigError, match=told):
        read_job(config(f"{{classifier: mlp, recipe: {{{settings}}}}}"), None)


@pytest.mark.parametrize("recipe", ["fast", "[a]", "&r [*r]"])
def test_a_recipe_is_a_mapping(config, recipe):
    with pytest.raises(ConfigError, match=r"mine\.yaml: recipe must be a mapping"):
        read_job(config(f"recipe: {recipe}"), None)


def test_settings_without_a_value_are_the_defaults(config):
    path = config(f"{{data: {{dev: }}, recipe: {{{TOWERS}, rate: , noise: }}}}")
    job, recipe = read_job(path, None)
    assert job.data.dev == () and recipe.rate == 2e-3


def test_measuring_needs_dev_files_and_a_table(config):
    for text in ("", "data: {dev: [a.fa]}", "data: {table: a.tsv}"):
        with pytest.raises(ConfigError, match="data needs dev"):
            read_evaluation(config(text), None)
