"""Input bytes -> unpacked, whatever they are packed with -> text with one kind of line end.

Memory is bounded and bytes are hashed as they come. What is wrong with a file as a file is told
here; what is wrong with its records, in `fasta.py`.
"""

import bz2
import codecs
import hashlib
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from virnucpro.core.errors import InputError

BLANKS = b" \t\v\f"
BLOCK_BYTES = 1 << 17
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
_COMMENT = "a comment; remove what comes before the first '>'"
_NO_HEADER = "FASTA begins with '>', FASTQ with '@'"

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
_ZSTANDARD_BYTES = 1 << 8  # it unpacks all it is given, and few bytes can stand for 128 KiB


class Unpacked:
    """An open input: unpacked bytes in `pieces`, its name in errors as `path`, its `packing`."""

    def __init__(self, path: Path | str, source: Any, on_bytes: Callable[[int], None]) -> None:
        self.path, self._digest, self._tail = path, hashlib.sha256(), b""
        self._raw = self._as_they_lie(source, on_bytes)
        head = b""
        while len(head) < _BGZF_EXTRA.stop and (piece := next(self._raw, b"")):
            head += piece
        if archive := _starts(_ARCHIVES, head):
            raise InputError(path, f"{archive} archive; unpack it first", 1)
        self.packing = _starts(_MAGIC, head)
        # whether a file of bgzip, once it is finished, lacks its end block
        self.is_cut_short = self.packing == "gzip" and head[_BGZF_EXTRA] == b"BC\x02\x00"
        packed = chain([head], self._raw)
        self.pieces = _unpacked(packed, self.packing) if self.packing else packed

    def _as_they_lie(self, source: Any, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
        while piece := source.read(BLOCK_BYTES):
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
        self.is_cut_short &= self._tail != _BGZF_END
        return self._digest.hexdigest()


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


def _unpacked(packed: Iterator[bytes], packing: str) -> Iterator[bytes]:
    """Unpack frames one after the other; only zeros may stand between and behind them.

    The libraries' own readers drop what follows the last whole frame, which joined files have;
    zstandard's takes a truncated frame for the end.
    """
    is_bounded = packing != "zstandard"
    size, most = (BLOCK_BYTES, (BLOCK_BYTES,)) if is_bounded else (_ZSTANDARD_BYTES, ())
    frame: Any = None
    for piece in packed:
        for start in range(0, len(piece), size):
            data = piece[start : start + size]
            while data or not getattr(frame, "needs_input", True):
                if frame is None:
                    if not (data := data.lstrip(b"\0")):
                        break
                    frame = _START[packing]()
                text = frame.decompress(data, *most)
                yield from (text[at : at + BLOCK_BYTES] for at in range(0, len(text), BLOCK_BYTES))
                data = frame.unused_data if frame.eof else getattr(frame, "unconsumed_tail", b"")
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame is incomplete")


class TextStream:
    """The unpacked text of one input: no byte order mark, no NUL byte, line feeds at line ends."""

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked, self.path = unpacked, unpacked.path
        self.lines = self.skipped_lines = 0  # line ends so far; those before the first record
        self.kind: str | None = None  # fasta or fastq; None if there are only blanks
        self._blocks = self._read()
        self._first = next(self._blocks, b"")

    def blocks(self) -> Iterator[bytes]:
        """The text from the first record on, cut anywhere; call it once."""
        return chain([self._first], self._blocks)

    def error(self, problem: str, line: int | None = None) -> InputError:
        """An error at a line, by default the one being read."""
        return InputError(self.path, problem, line or self.lines + 1)

    def _read(self) -> Iterator[bytes]:
        ends_in_return, seam = False, b""
        for block in chain([self._head()], iter(self._pull, b"")):
            text = b"\r" + block if ends_in_return else block
            ends_in_return = text.endswith(b"\r")
            if b"\r" in text:
                text = text.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if self.kind is None:
                count = text.count(b"\n")
                text = text.lstrip(BLANKS + b"\n")
                self.lines += count - text.count(b"\n")
                if not text:
                    continue
                self.skipped_lines = self.lines
                self.kind = {b">": "fasta", b"@": "fastq"}.get(text[:1])
                for begin, name, remedy in _FOREIGN if self.kind != "fasta" else ():
                    if re.match(begin, text):
                        raise self.error(f"{name}, not FASTA or FASTQ; {remedy}")
            around = seam + text
            if b"\0" in text:
                line = self.lines + text[: text.index(b"\0")].count(b"\n") + 1
                raise self.error(_NUL, line)
            if not around.isascii() and _MARK in around:
                before = around[len(seam) : around.index(_MARK)]
                raise self.error(_INNER_MARK, self.lines + before.count(b"\n") + 1)
            if self.kind is None:
                is_comment = text.startswith((b";", b"#"))
                raise self.error(f"no header: {_COMMENT if is_comment else _NO_HEADER}")
            seam = around[1 - len(_MARK) :]
            self.lines += text.count(b"\n")
            yield text
        if ends_in_return:
            self.lines += 1
            yield b"\n"

    def _head(self) -> bytes:
        """The first bytes, without a byte order mark; refuses what is no text."""
        head = b""
        while len(head) < _LONGEST_MAGIC and (more := self._pull()):
            head += more
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise self.error("UTF-16 text; save it as UTF-8 or ASCII")
        if inner := _starts(_MAGIC | _ARCHIVES, head):
            outer = self._unpacked.packing or "plain text"
            raise self.error(f"{inner} inside {outer}; unpack it once and give what comes out")
        if head[257:262] == b"ustar":
            raise self.error("tar archive of files; unpack it first")
        return head.removeprefix(_MARK)

    def _pull(self) -> bytes:
        try:
            return next(self._unpacked.pieces, b"")
        except UNPACK_ERRORS as error:
            if self._unpacked.packing is None:
                raise self.error(f"reading failed: {error}") from error
            remedy = "copy the file again; if a plain file was joined to it, give each by itself"
            problem = f"truncated or damaged {self._unpacked.packing} data ({error}); {remedy}"
            raise self.error(problem) from error
