"""Open an input, whatever it is packed with; the content decides, not the name.

Memory is bounded whatever a file unpacks to, and the bytes are hashed as they come.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

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
_START: dict[str, Callable[[], Any]] = {
    "gzip": partial(zlib.decompressobj, zlib.MAX_WBITS | 16),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "zstandard": lambda: zstandard.ZstdDecompressor().decompressobj(),
}
_BGZF_EXTRA = slice(12, 16)
# The empty block that ends every file of bgzip.
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BUFFER_BYTES = 1 << 17
_ZSTANDARD_BYTES = 1 << 8  # it unpacks all it is given, and few bytes can stand for 128 KiB


class Unpacked:
    """An open input: `source` has its unpacked bytes, `path` is its name in errors.

    `packing` is what it is packed with; None if it is plain.
    """

    def __init__(self, path: Path | str, source: Any, on_bytes: Callable[[int], None]) -> None:
        self.path, self._digest, self._tail = path, hashlib.sha256(), b""
        self._raw = self._as_they_lie(source, on_bytes)
        packed = io.BufferedReader(_Joined(self._raw), _BUFFER_BYTES)
        head = packed.peek(_BGZF_EXTRA.stop)
        if archive := archive_of(head):
            raise InputError(path, f"{archive} archive; unpack it first", 1)
        self.packing = packing_of(head)
        self._is_bgzip = self.packing == "gzip" and head[_BGZF_EXTRA] == b"BC\x02\x00"
        frames = self.packing and _Joined(_unpacked(packed, self.packing))
        self.source = io.BufferedReader(frames, _BUFFER_BYTES) if frames else packed

    def _as_they_lie(self, source: Any, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
        while piece := source.read(_BUFFER_BYTES):
            self._digest.update(piece)
            self._tail = (self._tail + piece[-len(_BGZF_END) :])[-len(_BGZF_END) :]
            on_bytes(len(piece))
            yield piece

    def finish(self) -> str:
        """Read what the parser left; hex SHA-256 of the input's bytes as they lie there."""
        try:
            for _ in self._raw:
                pass
        except OSError as error:
            raise InputError(self.path, f"reading failed: {error}") from error
        return self._digest.hexdigest()

    @property
    def is_cut_short(self) -> bool:
        """Whether a file of bgzip, read to its end, lacks its end block."""
        return self._is_bgzip and self._tail != _BGZF_END


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
            unpacked = Unpacked(path, source, on_bytes)
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InputError(repr(path), f"cannot be opened: {error}") from error
        yield unpacked


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


def _unpacked(packed: BinaryIO, packing: str) -> Iterator[bytes]:
    """Unpacks frames one after the other; only zeros may stand between and behind them.

    The libraries' own readers drop what follows the last whole frame, so that files of two kinds
    that were joined would lose the second; zstandard's takes a truncated frame for the end.
    """
    is_bounded = packing != "zstandard"
    size, most = (_BUFFER_BYTES, (_BUFFER_BYTES,)) if is_bounded else (_ZSTANDARD_BYTES, ())
    frame: Any = None
    while data := packed.read(size):
        while data or not getattr(frame, "needs_input", True):
            if frame is None:
                if not (data := data.lstrip(b"\0")):
                    break
                frame = _START[packing]()
            yield frame.decompress(data, *most)
            data = frame.unused_data if frame.eof else getattr(frame, "unconsumed_tail", b"")
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is incomplete")


class _Joined(io.RawIOBase):
    """Pieces of bytes as one file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._ready = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if (piece := next(self._pieces, None)) is None:
                return 0
            self._ready = memoryview(piece)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
