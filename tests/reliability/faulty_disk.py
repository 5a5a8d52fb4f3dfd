"""A disk that refuses the k-th open, write, fsync or rename of this process."""

import errno
import io
import os
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

OPERATIONS = ("open", "write", "fsync", "rename")


class FaultyDisk(ExitStack):
    """Patches what `core.files` calls; counts, and fails where it is told to.

    Args:
        operation: one of `OPERATIONS`; None fails nothing.
        number: of the call that fails, from 1.
        stays: every later call of any kind fails too, as on a full disk.
        code: errno of the failure.
        instead: called in place of failing.
    """

    def __init__(self, operation=None, number=0, stays=False, code=errno.ENOSPC, instead=None):
        super().__init__()
        self.operation, self.number, self.stays, self.code = operation, number, stays, code
        self.instead, self.calls, self.has_failed = instead, Counter(), False

    def hit(self, operation):
        """Count a call, and fail if it is its turn."""
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
