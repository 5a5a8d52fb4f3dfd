"""A disk that refuses the k-th open, write, fsync or rename of this process."""

import errno
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

OPERATIONS = ("open", "write", "fsync", "rename")


class FaultyDisk:
    """Patches what `core.files` calls; counts, and fails where it is told to.

    Args:
        operation: one of `OPERATIONS`; None fails nothing.
        number: of the call that fails, from 1.
        stays: every later call of any kind fails too, as on a full disk.
        code: errno of the failure.
        instead: called in place of failing.
    """

    def __init__(
        self, operation: str | None = None, number: int = 0, stays: bool = False,
        code: int = errno.ENOSPC, instead: Callable[[], object] | None = None,
    ) -> None:  # fmt: skip
        self.operation, self.number, self.stays, self.code = operation, number, stays, code
        self.instead = instead
        self.calls: Counter[str] = Counter()
        self.has_failed = False
        self._patches: list[Any] = []

    def hit(self, operation: str) -> None:
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

        def faulty_fsync(descriptor: int) -> None:
            self.hit("fsync")
            fsync(descriptor)

        def faulty_rename(path: Path, target: Path) -> Path:
            self.hit("rename")
            return rename(path, target)

        def faulty_open(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if "x" not in mode:
                return opened(path, mode, *rest, **options)
            self.hit("open")
            file = io.BufferedWriter(_FaultyFile(path, self))
            return file if "b" in mode else io.TextIOWrapper(file, **options)

        self._patches = [
            mock.patch("os.fsync", faulty_fsync),
            mock.patch.object(Path, "replace", faulty_rename),
            mock.patch.object(Path, "open", faulty_open),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *error: object) -> None:
        for patch in self._patches:
            patch.stop()


class _FaultyFile(io.FileIO):
    def __init__(self, path: Path, disk: FaultyDisk) -> None:
        super().__init__(path, "x")
        self._disk = disk

    def write(self, data: Any) -> int:
        self._disk.hit("write")
        return super().write(data)
