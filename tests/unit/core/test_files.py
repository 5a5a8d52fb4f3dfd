"""Files appear whole or not at all; the ledger says yes only for the same key and whole files."""

import errno
import hashlib
import os
import pickle
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from virnucpro.core import errors, files
from virnucpro.core.checkpoint import Ledger, atomic_save
from virnucpro.core.errors import DamagedError, OutputError, UsageError
from virnucpro.core.files import atomic_write, locked
from virnucpro.core.records import Embeddings


def test_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    target = tmp_path / "table.tsv"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(target, "w") as file:
        file.write("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    with atomic_write(target, "w") as file:
        file.write(b"caf\xe9\n".decode("utf-8", "surrogateescape"))
        assert target.read_text() == "old"
    assert target.read_bytes() == b"caf\xe9\n"  # an id with bytes outside UTF-8
    assert [path.name for path in tmp_path.iterdir()] == ["table.tsv"]


def test_a_file_is_created_whole_or_the_one_that_is_there_stays(tmp_path):
    path = tmp_path / "unit"
    for content, outcome in (
        (b"first", nullcontext()),
        (b"second", pytest.raises(FileExistsError)),
    ):
        with outcome, atomic_write(path, replace=False) as file:
            file.write(content)
    assert path.read_bytes() == b"first"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("number", "is_made"), [(errno.EPERM, True), (errno.ENOSPC, False)])
def test_without_hard_links_a_file_is_renamed_into_place(tmp_path, monkeypatch, number, is_made):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    outcome = nullcontext() if is_made else pytest.raises(OutputError, match="No space left")
    with outcome, atomic_write(tmp_path / "unit", replace=False) as file:
        file.write(b"content")
    assert len(list(tmp_path.iterdir())) == is_made


def test_a_lock_is_held_by_one(tmp_path):
    lock = tmp_path / "lock"
    with locked(lock), pytest.raises(UsageError, match="another run"), locked(lock):
        pass
    with locked(lock):
        pass


@pytest.mark.parametrize("shape", [(1, 3), (3,), (3, 2, 1)])
def test_vectors_need_one_id_each(shape):
    with pytest.raises(ValueError, match="2 ids"):
        Embeddings(("a", "b"), np.zeros(shape, np.float32))


def test_errors_survive_a_process_boundary():
    for error in (errors.InputError("x.fa", "no header", 3), errors.Interrupted(15)):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), copy.exit_code) == (str(error), error.exit_code)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path, tmp_path / "ledger")


@pytest.fixture
def output(tmp_path, ledger):
    path = tmp_path / "out.bin"
    path.write_bytes(b"content")
    ledger.commit("tables", "key", b"pay\nload", [path], {"records": 3})
    return path


def entry_of(ledger):
    [path] = ledger.folder.glob("*.entry")
    return path


def test_a_whole_unit_under_its_key_is_done_and_no_other(ledger, output):
    entry = ledger.read("tables", "key")
    assert (entry.facts, entry.payload) == ({"records": 3}, b"pay\nload")
    assert entry.outputs == {"out.bin": (7, hashlib.sha256(b"content").hexdigest())}
    assert ledger.read("tables", "other key") is ledger.read("scores 1", "key") is None
    assert Ledger(ledger.root, ledger.folder, reuse=False).read("tables", "key") is None
    output.unlink()
    assert ledger.read("tables", "key") is None


@pytest.mark.parametrize("content", [b"", b"conten", b"kontent"])
def test_a_changed_output_is_an_error_or_made_again(ledger, output, content, caplog):
    output.write_bytes(content)
    assert ledger.read("tables", "other key") is None  # nobody's damage
    with pytest.raises(DamagedError, match=r"out\.bin: .*--force-resume"):
        ledger.read("tables", "key")
    repairing = Ledger(ledger.root, ledger.folder, repair=True)
    assert repairing.read("tables", "key") is None
    assert str(output) in caplog.text
    repairing.commit("tables", "key", outputs=[output])
    assert ledger.read("tables", "key").payload == b""


def test_a_later_commit_of_the_same_unit_changes_nothing(ledger):
    assert ledger.commit("scores 1", "key", b"first")
    before = entry_of(ledger).read_bytes()
    assert not ledger.commit("scores 1", "key", b"second")
    assert entry_of(ledger).read_bytes() == before
    assert ledger.read("scores 1", "key").payload == b"first"
    assert [path.name for path in ledger.folder.iterdir()] == [entry_of(ledger).name]


def test_names_of_payloads_are_synced_with_the_next_entry_without_one(ledger, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "fsync_folder", lambda folder: synced.append(folder))
    ledger.commit("scores 1", "key", b"first")
    assert synced == []
    ledger.commit("calls", "key")
    assert synced == [ledger.folder]


@pytest.mark.parametrize("place", [0, 70, 130, -1])
@pytest.mark.parametrize("is_cut", [False, True])
def test_an_entry_changed_or_cut_is_damage(ledger, output, place, is_cut):
    content = bytearray(entry_of(ledger).read_bytes())
    content[place] ^= 1
    entry_of(ledger).write_bytes(content[:place] if is_cut else content)
    with pytest.raises(DamagedError, match=r"entry: fails its checksum; .*force-resume"):
        ledger.read("tables", "key")
    assert Ledger(ledger.root, ledger.folder, repair=True).read("tables", "key") is None


def test_what_is_forgotten_is_not_done_and_its_files_stay(ledger, output):
    for unit, key in (("tables", "other key"), ("inputs", ""), ("scores 1", "key")):
        ledger.commit(unit, key)
    ledger.discard("tables")
    assert ledger.read("tables", "key") is ledger.read("tables", "other key") is None
    assert output.exists()
    ledger.keep_only("inputs")
    assert ledger.read("scores 1", "key") is None and ledger.read("inputs", "") is not None


def test_saved_object_can_be_read_without_trust(tmp_path):
    atomic_save({"ids": ["a"]}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True) == {"ids": ["a"]}


def test_a_lock_that_its_holder_takes_away_is_held_by_nobody(tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    monkeypatch.setattr("fcntl.flock", lambda *words: lock.unlink())
    with pytest.raises(UsageError, match="another run"), locked(lock):
        pass
