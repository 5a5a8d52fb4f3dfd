"""Open an input, whatever it is packed with; the content decides, not the name.

Memory is bounded whatever a file unpacks to, and the bytes are hashed as they come.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from virnucpro.core.errors import InputError

STDIN = "-"
UNPACK_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError)

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x50\x2a\x4d\x18": "zstandard",
}
_ARCHIVES = {
    b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"\x1f\x9d": "compress (.Z)"
}  # fmt: skip
_BGZF_EXTRA = slice(12, 16)
# The empty block that ends every file of bgzip.
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BUFFER_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An open input."""

    source: io.BufferedReader  # its unpacked bytes
    path: Path | str  # its name in errors
    packing: str | None  # what it is packed with; None if it is plain
    is_bgzip: bool  # whether that is the gzip of bgzip, which ends with a block of its own
    _raw: _RawInput

    def finish(self) -> str:
        """Read what the parser left; hex SHA-256 of the input's bytes as they lie there."""
        try:
            while self._raw.read(_BUFFER_BYTES):
                pass
        except OSError as error:
            raise InputError(self.path, f"reading failed: {error}") from error
        return self._raw.digest.hexdigest()

    @property
    def is_cut_short(self) -> bool:
        """Whether a file of bgzip, read to its end, lacks its end block."""
        return self.is_bgzip and self._raw.tail != _BGZF_END


@contextmanager
def open_unpacked(
    path: Path | str, on_bytes: Callable[[int], None] = lambda count: None
) -> Iterator[Unpacked]:
    """Open a file, or standard input for `-`, to read its unpacked bytes.

    `on_bytes` is told how many more bytes were read of what lies there.
    """
    with ExitStack() as stack:
        try:
            if str(path) == STDIN:
                path, source = "standard input", standard_input()
            else:
                source = stack.enter_context(Path(path).open("rb"))
            raw = _RawInput(source, on_bytes)
            packed: io.BufferedReader = io.BufferedReader(raw, _BUFFER_BYTES)
            head = packed.peek(_BGZF_EXTRA.stop)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(repr(path), f"cannot be opened: {error}") from error
        if archive := archive_of(head):
            raise InputError(path, f"{archive} archive; unpack it first", 1)
        packing = packing_of(head)
        is_bgzip = packing == "gzip" and head[_BGZF_EXTRA] == b"BC\x02\x00"
        yield Unpacked(_unpacker(packed, packing), path, packing, is_bgzip, raw)


def standard_input() -> BinaryIO:
    """The bytes of standard input, if it is open."""
    if sys.stdin is None:
        raise InputError("standard input", "is closed; give a file, or a pipe for '-'")
    return sys.stdin.buffer


def packing_of(head: bytes) -> str | None:
    """What bytes are packed with, by the first of them; None if with nothing we know."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def archive_of(head: bytes) -> str | None:
    """The kind of archive that begins so; None if it is none we know."""
    return next((name for magic, name in _ARCHIVES.items() if head.startswith(magic)), None)


def _unpacker(packed: io.BufferedReader, packing: str | None) -> io.BufferedReader:
    """Something with `read1` that gives unpacked bytes."""
    if packing == "gzip":
        return cast("io.BufferedReader", gzip.GzipFile(fileobj=packed))
    starts: dict[str, Callable[[], Any]] = {
        "bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor, "zstandard": _ZstandardFrame
    }  # fmt: skip
    start = starts.get(packing or "")
    return io.BufferedReader(_Frames(packed, start), _BUFFER_BYTES) if start else packed


class _RawInput(io.RawIOBase):
    """The bytes as they lie there: hashed as they are read, the last few kept."""

    def __init__(self, source: Any, on_bytes: Callable[[int], None]) -> None:
        self._source, self._on_bytes = source, on_bytes
        self.digest, self.tail = hashlib.sha256(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        size: int = self._source.readinto(buffer)
        self.digest.update(buffer[:size])
        self._on_bytes(size)
        self.tail = (self.tail + bytes(buffer[:size][-len(_BGZF_END) :]))[-len(_BGZF_END) :]
        return size


class _Frames(io.RawIOBase):
    """Unpacks frames one after the other; only zeros may stand between and behind them.

    The libraries' own readers drop what follows the last whole frame, so that files of two kinds
    that were joined would lose the second; zstandard's takes a truncated frame for the end.
    """

    # A few bytes can stand for 128 KiB of zstandard, which unpacks all it is given.
    _bite_bytes = 1 << 8

    def __init__(self, source: BinaryIO, start: Callable[[], Any]) -> None:
        self._source, self._start = source, start
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if not self._packed and (self._frame is None or self._frame.needs_input):
                self._packed = self._source.read(self._bite_bytes)
                if not self._packed and self._frame is not None:
                    raise EOFError("the last frame is incomplete")
                if not self._packed:
                    return 0
            if self._frame is None:
                self._packed = self._packed.lstrip(b"\0")
                if not self._packed:
                    continue
                self._frame = self._start()
            self._ready = memoryview(self._frame.decompress(self._packed, _BUFFER_BYTES))
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


class _ZstandardFrame:
    """One frame of zstandard, as the decompressors of the standard library are used."""

    needs_input = True

    def __init__(self) -> None:
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def decompress(self, packed: bytes, _most_bytes: int) -> bytes:
        return self._frame.decompress(packed)

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data
