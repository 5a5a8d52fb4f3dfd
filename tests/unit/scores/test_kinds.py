"""Kinds and families of viruses from the probabilities of a model's groups."""

import numpy as np
import pytest

from virnucpro.scores.kinds import COLUMNS, KINDS, Kinds

GROUPS = ("bacteria", "RNA virus: Potyviridae", "RNA virus: Picornavirales",
          "virus: unresolved [x]", "bacteriophage: Microviridae")  # fmt: skip


def test_kinds_are_sums_and_orders_are_no_families():
    found = Kinds(GROUPS).columns(np.array([[0.1, 0.2, 0.4, 0.2, 0.1]], np.float32))
    assert found.shape == (1, COLUMNS)
    by_kind = dict(zip(KINDS, found[0].tolist(), strict=False))
    assert by_kind["RNA virus"] == pytest.approx(0.6)
    assert by_kind["bacteriophage"] == pytest.approx(0.1)
    assert by_kind["archaeal virus"] == 0
    assert found[0, -2:].tolist() == [1, pytest.approx(0.2)]  # Potyviridae


def test_a_record_has_the_kind_of_most_of_its_letters():
    kinds = Kinds(GROUPS)
    chunks = kinds.columns(
        np.array([[0, 0.9, 0, 0, 0.1], [0, 0.1, 0, 0, 0.9], [0, 0.1, 0.1, 0, 0.8]], np.float32)
    )
    of, weight = np.array([0, 0, 2]), np.array([500.0, 100.0, 500.0])
    kind, score, family, certain, host = kinds.of_records(chunks.astype(float), weight, of, 3)
    assert [KINDS[k] for k in kind[[0, 2]]] == ["RNA virus", "bacteriophage"]
    assert score.tolist() == pytest.approx([(5 * 0.9 + 0.1) / 6, 0, 0.8])
    assert [kinds.families[f] for f in family[[0, 2]]] == ["Potyviridae", "Microviridae"]
    assert certain.tolist() == pytest.approx([5 * 0.9 / 6, 0, 0.8])
    assert host.tolist() == [-1, -1, -1]


def test_a_record_has_the_host_of_most_of_its_letters():
    groups = ("bacteria", "RNA virus: Potyviridae", "plant", "null")
    kinds = Kinds(groups)
    assert kinds.hosts == ["bacteria", "plant"]
    chunks = kinds.columns(np.array([[0.9, 0, 0.1, 0], [0.2, 0, 0.8, 0]], np.float32))
    of = np.array([0, 0])
    for weight, host in (((500.0, 500.0), "bacteria"), ((100.0, 500.0), "plant")):
        found = kinds.of_records(chunks.astype(float), np.array(weight), of, 1)[-1]
        assert kinds.hosts[found[0]] == host
