"""Input bytes -> unpacked, whatever they are packed with -> text with one kind of line end.

Memory is bounded and bytes are hashed as they come. What is wrong with a file as a file is told
here; what is wrong with its records, in `entries.py`.
"""

import bz2
import codecs
import hashlib
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import zstandard

from virnucpro.core.errors import InputError

BLANKS = b" \t\v\f"
BLOCK_BYTES = 1 << 18
_LONGEST_MAGIC = 263
_MARK = codecs.BOM_UTF8
_NUL = (
    "NUL byte: binary data, a packed file joined to a plain one, or UTF-16 text; "
    "give each file by itself, text as UTF-8 or ASCII"
)
_INNER_MARK = (
    "a byte order mark inside the file: were files joined? Save each as plain UTF-8 or ASCII, "
    "without the mark, or give them as inputs of their own"
)

Kind = Literal["fasta", "fastq"]

_CONVERT = "convert it, e.g. with `any2fasta FILE > FILE.fa`"
_NO_LETTERS = "it describes sequences; give the FASTA or FASTQ file that holds them"
# What files begin with that are taken for FASTA, their names, and the remedy.
_FOREIGN = (
    (rb"LOCUS\s|\S+\.SEQ\s+Genetic Sequence", "GenBank", _CONVERT),
    (rb"ID   \S", "EMBL or UniProt", _CONVERT),
    (rb"H\tVN:Z:|[SLPWJC]\t\S+\t", "GFA", _CONVERT),
    (rb"CLUSTAL|MUSCLE \(", "Clustal", _CONVERT),
    (rb"# STOCKHOLM", "Stockholm", _CONVERT),
    (rb"#NEXUS", "NEXUS", _CONVERT),
    (rb"##gff|##sequence-region|#!gff|#!genome|#gtf", "GFF or GTF", _NO_LETTERS),
    (rb"(?!@)(?:#.*\n)*(?:[^\t\n]+\t){3}\d+\t\d+\t\S+\t[-+.?]\t", "GFF or GTF", _NO_LETTERS),
    (rb"##fileformat=VCF", "VCF", _NO_LETTERS),
    (rb"@(?:HD|SQ|RG|PG|CO)\t", "SAM", "unpack it, or make it BAM or FASTQ with samtools"),
    (rb"(?!@)(?:[^\t\n]+\t\d+\t){2}\d+\t\S+\t", "SAM", "give it with its header lines"),
    (rb"BAM\x01|CRAM", "BAM or CRAM", "make it FASTQ with `samtools fastq`"),
    (rb"<[!?a-zA-Z]", "HTML or XML", "a page in place of a download? fetch the file again"),
    (rb"NCBI\.sra", "SRA", "convert it with `fasterq-dump`"),
    (rb"\x89HDF|\x8bPOD", "fast5 or POD5", "call its bases first"),
)
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
    """An open input: unpacked bytes as `source`, its name in errors as `path`, its `packing`."""

    def __init__(self, path: Path | str, source: Any, on_bytes: Callable[[int], None]) -> None:
        self.path, self._digest, self._tail = path, hashlib.sha256(), b""
        self._raw = self._as_they_lie(source, on_bytes)
        packed = io.BufferedReader(_Joined(self._raw), _BUFFER_BYTES)
        head = packed.peek(_BGZF_EXTRA.stop)
        if archive := _starts(_ARCHIVES, head):
            raise InputError(path, f"{archive} archive; unpack it first", 1)
        self.packing = _starts(_MAGIC, head)
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
    """Open a file, or standard input for `-`; `on_bytes` is told of every read of packed bytes."""
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


def _starts(known: dict[bytes, str], head: bytes) -> str | None:
    return next((name for magic, name in known.items() if head.startswith(magic)), None)


def _unpacked(packed: BinaryIO, packing: str) -> Iterator[bytes]:
    """Unpack frames one after the other; only zeros may stand between and behind them.

    The libraries' own readers drop what follows the last whole frame, which joined files have;
    zstandard's takes a truncated frame for the end.
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


class TextStream:
    """The unpacked text of one input: no byte order mark, no NUL byte, line feeds at line ends."""

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked, self.path = unpacked, unpacked.path
        self._ends_in_return, self._seam = False, b""
        self.lines = self.skipped_lines = 0  # line ends so far; those before the first record
        self.kind: Kind | None = None  # by the first letter; None if there are only blanks
        self._first = self._first_block()

    def blocks(self) -> Iterator[bytes]:
        """The text from the first record on, cut anywhere; call it once."""
        yield self._first
        while block := self._pull():
            yield self._checked(self._with_line_feeds(block))
        if self._ends_in_return:
            self.lines += 1
            yield b"\n"

    def error(self, problem: str, line: int | None = None) -> InputError:
        """An error at a line, by default the one being read."""
        return InputError(self.path, problem, line or self.lines + 1)

    def _pull(self) -> bytes:
        try:
            return self._unpacked.source.read1(BLOCK_BYTES)
        except UNPACK_ERRORS as error:
            if self._unpacked.packing is None:
                raise self.error(f"reading failed: {error}") from error
            remedy = "copy the file again; if a plain file was joined to it, give each by itself"
            problem = f"truncated or damaged {self._unpacked.packing} data ({error}); {remedy}"
            raise self.error(problem) from error

    def _first_block(self) -> bytes:
        """The first text that is not blank, without a byte order mark; finds out its kind."""
        block = b""
        while len(block) < _LONGEST_MAGIC and (more := self._pull()):
            block += more
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise self.error("UTF-16 text; save it as UTF-8 or ASCII")
        if inner := _starts(_MAGIC | _ARCHIVES, block):
            outer = self._unpacked.packing or "plain text"
            raise self.error(f"{inner} inside {outer}; unpack it once and give what comes out")
        if block[257:262] == b"ustar":
            raise self.error("tar archive of files; unpack it first")
        block = block.removeprefix(_MARK)
        while block:
            text = self._with_line_feeds(block)
            kept = text.lstrip(BLANKS + b"\n")
            self.lines += text.count(b"\n") - kept.count(b"\n")
            if kept:
                self.skipped_lines = self.lines
                self.kind = self._kind_of(kept)
                return self._checked(kept)
            block = self._pull()
        return b""

    def _kind_of(self, text: bytes) -> Kind:
        if text.startswith(b">"):
            return "fasta"
        for begin, name, remedy in _FOREIGN:
            if re.match(begin, text):
                raise self.error(f"{name}, not FASTA or FASTQ; {remedy}")
        if text.startswith(b"@"):
            return "fastq"
        line = self.lines + 1
        self._checked(text)
        if text.startswith((b";", b"#")):
            raise self.error("no header: a comment; remove what comes before the first '>'", line)
        raise self.error("no header: FASTA begins with '>', FASTQ with '@'", line)

    def _with_line_feeds(self, block: bytes) -> bytes:
        if self._ends_in_return:
            block = b"\r" + block
        self._ends_in_return = block.endswith(b"\r")
        block = block.removesuffix(b"\r")
        return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block

    def _checked(self, text: bytes) -> bytes:
        """The text itself; refuses what no text of sequences holds."""
        around = self._seam + text
        if b"\0" in text:
            raise self.error(_NUL, self.lines + text[: text.index(b"\0")].count(b"\n") + 1)
        if not around.isascii() and _MARK in around:
            before = around[len(self._seam) : around.index(_MARK)]
            raise self.error(_INNER_MARK, self.lines + before.count(b"\n") + 1)
        self._seam = around[1 - len(_MARK) :]
        self.lines += text.count(b"\n")
        return text
