"""Open an input, whatever it is packed with; the content decides, not the name.

Room 1 (FASTA -> chunks -> ORFs). Memory is bounded whatever a file unpacks to.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import zstandard

from virnucpro.core.errors import InputError

STDIN = "-"
UNPACK_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_MAGIC_BYTES = 6
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x50\x2a\x4d\x18": "zstandard",
}
_ARCHIVES = {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"\x1f\x9d": "compress (.Z)"}
_ZSTANDARD_BUFFER_BYTES = 1 << 17


class Unpacked(NamedTuple):
    """An open input: its unpacked bytes, its name in errors, its packing if it has one."""

    source: io.BufferedReader
    path: Path | str
    packing: str | None


@contextmanager
def open_unpacked(path: Path | str) -> Iterator[Unpacked]:
    """Open a file, or standard input for `-`, to read its unpacked bytes.

    Raises:
        InputError: a directory, a missing or unreadable file, an archive of files.
    """
    with ExitStack() as stack:
        try:
            if str(path) == STDIN:
                path, raw = "standard input", standard_input()
            else:
                raw = stack.enter_context(Path(path).open("rb"))
            head = raw.read(_MAGIC_BYTES)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(repr(path), f"cannot be opened: {error}") from error
        for magic, name in _ARCHIVES.items():
            if head.startswith(magic):
                raise InputError(path, f"{name} archive; unpack it first", 1)
        packing = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
        yield Unpacked(_unpacker(_Prefixed(head, raw), packing), path, packing)


def standard_input() -> BinaryIO:
    """The bytes of standard input.

    Raises:
        InputError: it is closed.
    """
    if sys.stdin is None:
        raise InputError("standard input", "is closed; give a file, or a pipe for '-'")
    return sys.stdin.buffer


def _unpacker(packed: io.RawIOBase, packing: str | None) -> io.BufferedReader:
    """Something with `read1` that gives unpacked bytes."""
    source: io.BufferedReader = io.BufferedReader(packed)
    if packing == "gzip":
        return cast("io.BufferedReader", gzip.GzipFile(fileobj=source))
    if packing == "bzip2":
        return cast("io.BufferedReader", bz2.BZ2File(source))
    if packing == "xz":
        return cast("io.BufferedReader", lzma.LZMAFile(source))
    if packing == "zstandard":
        return io.BufferedReader(_Zstandard(source), _ZSTANDARD_BUFFER_BYTES)
    return source


class _Prefixed(io.RawIOBase):
    """A source whose first bytes were read already, to learn its format."""

    def __init__(self, head: bytes, source: BinaryIO) -> None:
        self._head, self._source = head, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or self._source.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


class _Zstandard(io.RawIOBase):
    """Unpacks zstandard frames one after the other.

    Unlike the library's own reader it tells a truncated frame from the end of the data.
    """

    # A few bytes can stand for 128 KiB, so small bites bound what one call unpacks.
    _bite_bytes = 1 << 8

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            self._packed = self._packed or self._source.read(self._bite_bytes)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last frame is incomplete")
                return 0
            self._unpack()
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _unpack(self) -> None:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        self._ready = memoryview(self._frame.decompress(self._packed))
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
