"""The ledger answers yes only for the same key and whole outputs."""

from __future__ import annotations

import pytest

from virnucpro.core.checkpoint import StageLedger, atomic_save


@pytest.fixture
def unit(tmp_path):
    """A committed unit: its ledger and its output."""
    output = tmp_path / "out.bin"
    output.write_bytes(b"content")
    ledger = StageLedger(tmp_path / "ledger")
    ledger.commit("chunking", "key", [output], {"records": 3})
    return ledger, output


def test_whole_output_under_the_same_key_is_done(unit):
    ledger, output = unit
    assert ledger.is_done("chunking", "key", [output])
    assert ledger.facts("chunking") == {"records": 3}


@pytest.mark.parametrize("content", [b"", b"conten", b"kontent"])
def test_changed_output_is_not_done(unit, content):
    ledger, output = unit
    output.write_bytes(content)
    assert not ledger.is_done("chunking", "key", [output])


def test_missing_output_is_not_done(unit):
    ledger, output = unit
    output.unlink()
    assert not ledger.is_done("chunking", "key", [output])


def test_other_key_unit_or_number_of_outputs_is_not_done(unit):
    ledger, output = unit
    assert not ledger.is_done("chunking", "other key", [output])
    assert not ledger.is_done("translation", "key", [output])
    assert not ledger.is_done("chunking", "key", [output, output])


def test_without_reuse_nothing_is_done(unit, tmp_path):
    _, output = unit
    ledger = StageLedger(tmp_path / "ledger", reuse=False)
    assert not ledger.is_done("chunking", "key", [output])


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_damaged_record_is_not_done(unit, tmp_path, damage):
    ledger, output = unit
    for record in (tmp_path / "ledger").iterdir():
        record.write_bytes(damage)
    assert not ledger.is_done("chunking", "key", [output])
    assert ledger.facts("chunking") == {}


def test_unit_names_never_leave_the_folder(tmp_path):
    ledger = StageLedger(tmp_path / "ledger")
    ledger.commit("../../escape", "key", [])
    assert [path.parent.name for path in tmp_path.rglob("*.json")] == ["ledger"]


def test_discarded_unit_is_not_done(unit):
    ledger, output = unit
    ledger.discard("chunking")
    assert not ledger.is_done("chunking", "key", [output])


def test_saved_object_can_be_read_without_trust(tmp_path):
    import torch

    atomic_save({"ids": ["a"]}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True) == {"ids": ["a"]}
