"""The ledger answers yes only for the same key and whole outputs."""

from __future__ import annotations

import pytest

from virnucpro.core.checkpoint import StageLedger, atomic_save
from virnucpro.core.errors import DamagedError


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
def test_changed_output_is_an_error_that_names_file_and_remedy(unit, content):
    ledger, output = unit
    output.write_bytes(content)
    with pytest.raises(DamagedError, match=r"out\.bin: .*--force-resume"):
        ledger.is_done("chunking", "key", [output])


@pytest.mark.parametrize("content", [b"", b"conten", b"kontent"])
def test_changed_output_is_made_again_where_repair_is_asked_for(unit, tmp_path, content, caplog):
    _, output = unit
    output.write_bytes(content)
    ledger = StageLedger(tmp_path / "ledger", repair=True)
    assert not ledger.is_done("chunking", "key", [output])
    assert str(output) in caplog.text


def test_changed_output_of_another_key_is_nobodys_damage(unit):
    ledger, output = unit
    output.write_bytes(b"of another run")
    assert not ledger.is_done("chunking", "other key", [output])


def test_missing_output_is_not_done(unit):
    ledger, output = unit
    output.unlink()
    assert not ledger.is_done("chunking", "key", [output])


def test_other_key_unit_or_number_of_outputs_is_not_done(unit):
    ledger, output = unit
    assert not ledger.is_done("chunking", "other key", [output])
    assert not ledger.is_done("translation", "key", [output])
    assert not ledger.is_done("chunking", "key", [output, output])
    assert not ledger.is_done("chunking", "key", [output.with_name("other.bin")])


def test_without_reuse_nothing_is_done(unit, tmp_path):
    _, output = unit
    ledger = StageLedger(tmp_path / "ledger", reuse=False)
    assert not ledger.is_done("chunking", "key", [output])


RECORD = b'{"format": 1, "unit": "chunking", "key": "key", "outputs": %s}'
DAMAGE = [b"", b"{", b"[]", b'{"format": 1}', b"\xff\xfe", b"[" * 100_000, b"null"]
DAMAGE += [RECORD % outputs for outputs in (b"3", b"[3]", b"[{}]", b'{"name": "out.bin"}')]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
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
    assert output.exists()


def test_discarded_outputs_cannot_be_taken_for_new_ones(unit):
    ledger, output = unit
    ledger.discard("chunking", [output])
    assert not output.exists()
    ledger.discard("chunking", [output])


def test_saved_object_can_be_read_without_trust(tmp_path):
    import torch

    atomic_save({"ids": ["a"]}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True) == {"ids": ["a"]}
