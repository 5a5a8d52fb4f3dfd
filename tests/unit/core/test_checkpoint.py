"""The ledger answers yes only for the same key and whole files, and a commit creates or nothing."""

import hashlib
import json

import pytest
import torch

from virnucpro.core.checkpoint import CLAIMS, Ledger, atomic_save
from virnucpro.core.errors import DamagedError


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path, tmp_path / "ledger")


@pytest.fixture
def output(tmp_path, ledger):
    """The output of a committed unit."""
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


@pytest.mark.parametrize("place", [0, 70, 200, -1])
@pytest.mark.parametrize("is_cut", [False, True])
def test_an_entry_changed_or_cut_is_damage(ledger, output, place, is_cut):
    content = bytearray(entry_of(ledger).read_bytes())
    content[place] ^= 1
    entry_of(ledger).write_bytes(content[:place] if is_cut else content)
    with pytest.raises(DamagedError, match=r"entry: fails its checksum; .*force-resume"):
        ledger.read("tables", "key")
    assert Ledger(ledger.root, ledger.folder, repair=True).read("tables", "key") is None


def sealed(text):
    """An entry that is not ours, under a checksum that fits."""
    text += b"\n"
    return hashlib.sha256(text).hexdigest().encode() + b"\n" + text


ENTRY = {"format": 2, "facts": {}, "outputs": {}, "sha256": hashlib.sha256().hexdigest()}
ODD = ({"format": 1}, {"outputs": 3}, {"outputs": {"a": 3}}, {"sha256": None})
HOSTILE = [b"", b"\n\n", b"\xff\xfe\n\n"]
HOSTILE += [sealed(text) for text in (b"", b"[]", b"[" * 100_000, b"{}")]
HOSTILE += [sealed(json.dumps(ENTRY | change).encode()) for change in ODD]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_entry_is_damage_and_never_done(ledger, output, content):
    entry_of(ledger).write_bytes(content)
    with pytest.raises(DamagedError):
        ledger.read("tables", "key")
    assert Ledger(ledger.root, ledger.folder, repair=True).read("tables", "key") is None


def test_unit_names_never_leave_the_folder(ledger):
    ledger.commit("../../escape", "../key")
    assert entry_of(ledger).parent == ledger.folder
    assert ledger.read("../../escape", "../key") is not None


def test_what_is_forgotten_is_not_done_and_its_files_stay(ledger, output):
    for unit, key in (("tables", "other key"), ("inputs", ""), ("scores 1", "key")):
        ledger.commit(unit, key)
    ledger.discard("tables")
    assert ledger.read("tables", "key") is ledger.read("tables", "other key") is None
    assert output.exists()
    ledger.keep_only("inputs")
    assert ledger.read("scores 1", "key") is None and ledger.read("inputs", "") is not None


def test_a_list_of_claims_that_is_a_link_is_never_written_through(ledger, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    ledger.folder.mkdir()
    (ledger.folder / CLAIMS).symlink_to(theirs)
    ledger.claim(ledger.root / "a.txt")
    assert theirs.read_text() == "precious" and ledger.claimed() == ["a.txt"]


def test_saved_object_can_be_read_without_trust(tmp_path):
    atomic_save({"ids": ["a"]}, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True) == {"ids": ["a"]}
