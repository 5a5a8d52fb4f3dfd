"""Whichever open, write, fsync or rename fails: a clear error, nothing torn, and resume."""

import errno
import io
import os
import shutil
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
from runs import results
from runs_here import predict_here, write_fasta

from virnucpro.core.errors import OutputError

OPERATIONS = ("open", "write", "fsync", "rename")


class FaultyDisk(ExitStack):
    """Counts calls of `core.files`; one fails, later ones too if it `stays`, or calls `instead`."""

    def __init__(self, operation=None, number=0, stays=False, code=errno.ENOSPC, instead=None):
        super().__init__()
        self.operation, self.number, self.stays, self.code = operation, number, stays, code
        self.instead, self.calls, self.has_failed = instead, Counter(), False

    def hit(self, operation):
        self.calls[operation] += 1
        is_turn = operation == self.operation and self.calls[operation] == self.number
        if is_turn and self.instead is not None:
            self.instead()
        elif is_turn or (self.has_failed and self.stays):
            self.has_failed = True
            raise OSError(self.code, os.strerror(self.code))

    def __enter__(self):
        fsync, rename, opened = os.fsync, Path.replace, Path.open

        def faulty_fsync(descriptor):
            self.hit("fsync")
            fsync(descriptor)

        def faulty_rename(path, target):
            self.hit("rename")
            return rename(path, target)

        def faulty_open(path, mode="r", *rest, **options):
            if "x" not in mode:
                return opened(path, mode, *rest, **options)
            self.hit("open")
            file = io.BufferedWriter(_FaultyFile(path, self))
            return file if "b" in mode else io.TextIOWrapper(file, **options)

        self.enter_context(mock.patch("os.fsync", faulty_fsync))
        self.enter_context(mock.patch.object(Path, "replace", faulty_rename))
        self.enter_context(mock.patch.object(Path, "open", faulty_open))
        return self


class _FaultyFile(io.FileIO):
    def __init__(self, path, disk):
        super().__init__(path, "x")
        self._disk = disk

    def write(self, data):
        self._disk.hit("write")
        return super().write(data)


class Small:
    def __init__(self, folder, home):
        self.home, self.input = home, folder / "reads.fa"
        write_fasta(self.input, ("a", "ACGTTGCATGCC" * 10), ("b", "ACTTGACCA" * 15))
        self.expected = self.run(folder / "undisturbed")
        with FaultyDisk() as disk:
            self.run(folder / "counted")
        self.calls = disk.calls

    def run(self, out):
        output = {"keep_intermediate": True, "resume": True}
        assert predict_here(self.home, self.input, out, output=output, reader_threads=0) == 0
        return results(out)


@pytest.fixture(scope="module")
def small(quick_folder, tiny_home):
    folder = quick_folder / "small"
    folder.mkdir()
    return Small(folder, tiny_home)


def expect_clean_failure(small, out, disk, message):
    with disk, pytest.raises(OutputError, match=message):
        small.run(out)
    for name, content in small.expected.items():
        assert not (out / name).exists() or (out / name).read_bytes() == content, name


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_call_may_fail(small, quick_folder, operation):
    calls = small.calls[operation]
    assert calls > 10
    for number in range(1, calls + 1):
        out = quick_folder / f"{operation}-{number}"
        disk = FaultyDisk(operation, number, stays=operation != "rename")
        expect_clean_failure(small, out, disk, "No space left on device")
        assert small.run(out) == small.expected, f"{operation} {number}"
        assert not list(out.rglob("*.tmp*")), f"{operation} {number}"
        shutil.rmtree(out)


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EIO, errno.EROFS])
def test_other_causes_are_told_as_they_are(small, tmp_path, code):
    disk = FaultyDisk("write", 12, code=code)
    expect_clean_failure(small, tmp_path / "out", disk, os.strerror(code))
    assert small.run(tmp_path / "out") == small.expected


@pytest.mark.parametrize("number", [1, 5, 9, 13])
def test_a_directory_that_vanishes_is_an_output_error(small, tmp_path, number):
    out = tmp_path / "out"
    disk = FaultyDisk("open", number, instead=lambda: shutil.rmtree(out))
    with disk, pytest.raises(OutputError, match=str(out)):
        small.run(out)
    assert small.run(out) == small.expected


def test_the_order_of_a_commit_is_write_fsync_rename_fsync(small, tmp_path):
    order = []

    class Recorder(FaultyDisk):
        def hit(self, operation):
            order.append(operation)

    with Recorder():
        small.run(tmp_path / "out")
    text = "".join({"open": "o", "write": "w", "fsync": "f", "rename": "r"}[o] for o in order)
    renames = [place for place, letter in enumerate(text) if letter == "r"]
    assert len(renames) > 10
    for place in renames:
        assert text[place - 1] == "f" and text[place + 1] == "f"
