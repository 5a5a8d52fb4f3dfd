"""Labelled FASTA: groups, held-out sets, null sequences, and files that cannot be used."""

import gzip

import pytest
from training_data import TINY_RECIPE, write_labelled

from virnucpro.core.config import build
from virnucpro.core.errors import ConfigError, InputError
from virnucpro.training import corpus as corpora
from virnucpro.training.corpus import NULL, VIRUS, load_corpus, load_labelled, read_labels
from virnucpro.training.jobs import LabelledFiles, Recipe


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
    assert sum(len(c.ids) for c in (train, *dev.values())) == 36
    again = load_labelled(_files(data))[1]
    assert {g for corpus in again.values() for g in corpus.groups} == held


def test_classes_of_files_stand_in_for_a_table(data):
    train, dev = load_labelled(_files(data, table=(), classes=("virus", "bacteria")))
    assert sum(g.target == VIRUS for g in (*train.groups, *dev["dev_virus"].groups)) == 18
    classes = ("virus", "bacteria", "null")
    files = _files(data, table=(), dev=(data / "virus.fa",), classes=classes)
    assert [g.kind for g in load_labelled(files)[1]["virus"].groups] == ["null"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"table": (), "classes": ("virus",)}, "a class for each"),
        ({"train": ()}, "no training files"),
        ({"train": ("bacteria.fa",)}, "viruses have a single group or none"),
    ],
)
def test_files_that_do_not_make_a_training_set_are_refused(data, changes, told):
    if changes.get("train"):
        changes = {"train": tuple(data / name for name in changes["train"])}
    with pytest.raises(ConfigError, match=told):
        load_labelled(_files(data, **changes))


def test_nulls_follow_the_corpus_from_the_seed(data):
    train, _ = load_labelled(_files(data))
    recipe = build(Recipe, TINY_RECIPE, "recipe")
    first, again = corpora.with_made_up(train, recipe), corpora.with_made_up(train, recipe)
    assert (first.bases == again.bases).all()
    kinds = {g.group for g in first.groups if g.target == NULL}
    assert {"uniform", "bases", "dinucleotides", "low"} <= kinds
    none = corpora.with_made_up(train, build(Recipe, {**TINY_RECIPE, "null_share": 0.0}, ""))
    assert none.ids == train.ids


def test_several_tables_label_several_files_and_no_record_twice(data, tmp_path):
    head, *rows = (data / "labels.tsv").read_text().splitlines(keepends=True)
    tables = tmp_path / "virus.tsv", tmp_path / "bacteria.tsv"
    for path in tables:
        path.write_text(head + "".join(row for row in rows if row.startswith(path.stem)))
    both, whole = (load_labelled(_files(data, table=t))[0] for t in (tables, data / "labels.tsv"))
    assert (both.ids, both.groups) == (whole.ids, whole.groups)
    with pytest.raises(InputError, match=r"bacteria.* record bacteria0 is in another table too"):
        load_labelled(_files(data, table=(data / "labels.tsv", tables[1])))


def test_what_cannot_be_read_is_named(data, tmp_path):
    labels = read_labels(data / "labels.tsv")
    with pytest.raises(InputError, match="has no label"):
        load_corpus([(data / "virus.fa", {}.get)])
    with pytest.raises(InputError, match=r"missing\.fa"):
        load_corpus([(tmp_path / "missing.fa", labels.get)])
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
