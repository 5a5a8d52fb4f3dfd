from __future__ import annotations

import gzip

import pytest
from training_data import write_labelled

from virnucpro.core.errors import ConfigError, InputError
from virnucpro.training.corpus import NULL, VIRUS, load_corpus, read_labels
from virnucpro.training.jobs import read_job
from virnucpro.training.labelled import LabelledFiles, load_dev, load_labelled, set_names
from virnucpro.training.plain import build
from virnucpro.training.recipe import Recipe
from virnucpro.training.run import with_nulls

TOWERS = {"dna": {"width": 8}, "protein": {"width": 8}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def _files(data, **changes) -> LabelledFiles:
    given = {"train": (data / "virus.fa", data / "bacteria.fa"), "table": data / "labels.tsv"}
    return LabelledFiles(**{**given, **changes})


def test_held_out_groups_are_in_no_training_set(data):
    train, dev = load_labelled(_files(data))
    held = {g for corpus in dev.values() for g in corpus.groups}
    assert held and not held & set(train.groups)
    assert {g.kind for g in held} == {"virus", "bacteria"}
    whole = sum(len(c.ids) for c in (train, *dev.values()))
    assert whole == 36
    again = load_labelled(_files(data))[1]
    assert {g for corpus in again.values() for g in corpus.groups} == held


def test_classes_of_files_stand_in_for_a_table(data):
    files = _files(data, table=None, classes=("virus", "bacteria"))
    train, dev = load_labelled(files)
    assert sum(g.target == VIRUS for g in (*train.groups, *dev["dev_virus"].groups)) == 18
    files = _files(
        data, table=None, dev=(data / "virus.fa",), classes=("virus", "bacteria", "null")
    )
    assert [g.kind for g in load_labelled(files)[1]["virus"].groups] == ["null"] * 18
    with pytest.raises(ConfigError, match="a class for each"):
        load_labelled(_files(data, table=None, classes=("virus",)))
    with pytest.raises(ConfigError, match="no training files"):
        load_labelled(_files(data, train=()))


def test_one_group_of_a_class_cannot_be_split(tmp_path):
    data = write_labelled(tmp_path, groups=1)
    with pytest.raises(ConfigError, match="viruses have a single group"):
        load_labelled(_files(data))
    with pytest.raises(ConfigError, match="viruses have a single group or none"):
        load_labelled(_files(data, train=(data / "bacteria.fa",)))


def test_dev_files_are_sets_of_their_own(data):
    train, dev = load_labelled(_files(data, dev=(data / "virus.fa",)))
    assert list(dev) == ["virus"] and len(train.ids) == 36


def test_files_of_one_stem_stay_sets_of_their_own(data, tmp_path):
    paths = [
        data / "virus.fa",
        tmp_path / "virus.fa",
        tmp_path / "virus 3.fa",
        tmp_path / "virus.fq",
    ]
    for path in paths[1:]:
        path.write_bytes((data / "bacteria.fa").read_bytes())
    names = ["virus", "virus 2", "virus 3", "virus 4"]
    files = _files(data, dev=tuple(paths))
    assert list(load_labelled(files)[1]) == list(load_dev(files)) == names
    paths[2:] = [tmp_path / "virus.fq", tmp_path / "virus.fq"]
    paths[0] = tmp_path / "virus 3.fa"
    assert set_names(paths) == ["virus 3", "virus", "virus 4", "virus 5"]


def test_nulls_follow_the_corpus_from_the_seed(data):
    train, _ = load_labelled(_files(data))
    buckets = [{"shortest": 150, "longest": 300, "batch": 8}]
    recipe = build(Recipe, {**TOWERS, "null_bank_share": 0.001, "buckets": buckets}, "recipe")
    first, again = with_nulls(train, recipe), with_nulls(train, recipe)
    assert (first.bases == again.bases).all()
    kinds = {g.group for g in first.groups if g.target == NULL}
    assert {"uniform", "markov1", "shuffle1", "low"} <= kinds
    assert with_nulls(train, build(Recipe, {**TOWERS, "null_share": 0.0}, "recipe")) is train


def test_what_cannot_be_read_is_named(data, tmp_path):
    labels = read_labels(data / "labels.tsv")
    with pytest.raises(InputError, match="has no label"):
        load_corpus([data / "virus.fa"], {})
    with pytest.raises(InputError, match=r"missing\.fa"):
        load_corpus([tmp_path / "missing.fa"], labels)
    table = tmp_path / "odd.tsv"
    for text, told in (
        ("name\tclass\nx\tvirus\n", "columns id and class"),
        ("id\tclass\nx\tvirus\ny\n", "line 3: the row has no id or no class"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=told):
            read_labels(table)
    packed = tmp_path / "labels.tsv.gz"
    packed.write_bytes(gzip.compress((data / "labels.tsv").read_bytes()))
    assert read_labels(packed) == labels
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"labels\.tsv\.gz"):
        read_labels(packed)


def test_groups_come_from_family_species_or_source(tmp_path):
    table = tmp_path / "meta.tsv"
    table.write_text(
        "id\tclass\tfamily\tspecies\tsource\n"
        "a\tvirus\tPotyviridae\tx\traw/v/one/f.fa\n"
        "b\tvirus\t\tx\traw/v/one/f.fa\n"
        "c\tfungi\t\tYeast\traw/f/two/g.fa\n"
    )
    groups = {name: label.group for name, label in read_labels(table).items()}
    assert groups == {"a": "Potyviridae", "b": "unresolved [one]", "c": "Yeast"}


def test_a_configuration_needs_a_recipe(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: x\n")
    with pytest.raises(ConfigError, match="recipe"):
        read_job(path, None)
