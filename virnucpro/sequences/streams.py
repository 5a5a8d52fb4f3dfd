"""Input bytes, checked on their way to the parser.

Room 1 (FASTA -> chunks -> ORFs). Whatever is wrong with a file as a file is told here, with its
line; the parser sees clean text.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import Literal

import numpy as np

from virnucpro.core.errors import InputError
from virnucpro.sequences.unpack import UNPACK_ERRORS, Unpacked

# More than nearly all chromosomes have: beyond it the input is a compression bomb or no sequence
# (nt). A record is in memory as a whole, at about 4 bytes a letter.
MAX_RECORD_NT = 1_000_000_000
MAX_HEADER_BYTES = 1 << 20

_BLOCK_BYTES = 1 << 18
_HELD_BYTES = 1 << 20
_MARK_BYTES = 4
_NAME_BYTES = 200
_BLANKS = b" \t\r\n\v\f"
_NOT_ASCII = re.compile(rb"[\x80-\xff]")

Kind = Literal["fasta", "fastq"]


class CheckedStream(io.RawIOBase):
    """Unpacked bytes of one input: no byte order mark, no NUL byte, no endless record.

    Bytes that are not UTF-8 become the replacement character, in FASTA; FASTQ is ASCII. Blank
    lines before the first record and, in FASTQ, behind the last one are left out.

    Attributes:
        kind: by the first letter; None if there is nothing but blanks.
        skipped_lines: blank lines before the first record, which the parser does not see.
        lines: line ends seen so far in the whole input.

    Raises:
        InputError: from the constructor and from reading.
    """

    def __init__(self, unpacked: Unpacked, max_record_nt: int = MAX_RECORD_NT) -> None:
        self._unpacked, self._max_record_bytes = unpacked, max_record_nt
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._record_bytes, self._record_name, self._ended_line = 0, b"", True
        self._in_header = False
        self._held, self._fed_lines = b"", 0
        self.lines = 0
        first = self._first_block()
        self.skipped_lines = self.lines
        self.kind: Kind | None = self._kind_of(first) if first else None
        self._ready = memoryview(self._checked(first))

    def readable(self) -> bool:
        """Always: a stream to read from."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` with checked bytes; 0 at the end of the input."""
        while not self._ready:
            block = self._pull()
            self._ready = memoryview(self._checked(block) if block else self._last_bytes())
            if not block:
                break
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def error(self, problem: str, line: int | None = None) -> InputError:
        """An error at a line, by default the one being read."""
        return InputError(self._unpacked.path, problem, line or self.lines + 1)

    def _pull(self) -> bytes:
        try:
            return self._unpacked.source.read1(_BLOCK_BYTES)
        except UNPACK_ERRORS as error:
            if self._unpacked.packing is None:
                raise self.error(f"reading failed: {error}") from error
            what = f"truncated or damaged {self._unpacked.packing} data"
            problem = f"{what} ({error}); copy the file again"
            raise self.error(problem) from error

    def _first_block(self) -> bytes:
        """The first bytes that are not blank, without a byte order mark."""
        block = b""
        while len(block) < _MARK_BYTES and (more := self._pull()):
            block += more
        if block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise self.error("UTF-16 text; save it as UTF-8 or ASCII")
        block = block.removeprefix(codecs.BOM_UTF8)
        while block:
            text = block.lstrip(_BLANKS)
            self.lines += _line_ends(block[: len(block) - len(text)])
            if text:
                return text
            block = self._pull()
        return b""

    def _kind_of(self, block: bytes) -> Kind:
        if block.startswith(b">"):
            return "fasta"
        if block.startswith(b"@"):
            return "fastq"
        if block[257:262] == b"ustar":
            raise self.error("tar archive of files; unpack it first")
        self._refuse_nul(block)
        raise self.error("no header: FASTA begins with '>', FASTQ with '@'")

    def _checked(self, block: bytes) -> bytes:
        self._refuse_nul(block)
        if not block.isascii() or self._decoder.getstate()[0]:
            block = self._as_utf8(block)
        self._bound_record(block)
        self.lines += _line_ends(block)
        return self._without_last_blanks(block) if self.kind == "fastq" else block

    def _refuse_nul(self, block: bytes) -> None:
        if (place := block.find(b"\0")) >= 0:
            line = self.lines + _line_ends(block[:place]) + 1
            raise self.error("NUL byte: binary data or UTF-16 text", line)

    def _as_utf8(self, block: bytes) -> bytes:
        if self.kind == "fastq" and (odd := _NOT_ASCII.search(block)):
            line = self.lines + _line_ends(block[: odd.start()]) + 1
            raise self.error("letter outside ASCII in FASTQ", line)
        return self._decoder.decode(block).encode()

    def _bound_record(self, block: bytes) -> None:
        """Stop at a record (in FASTQ: a line) that grows without end."""
        mark = b">" if self.kind == "fasta" else b""
        start = -1
        if mark in block:
            start = max(block.rfind(b"\n" + mark), block.rfind(b"\r" + mark))
        if start >= 0 or (self._ended_line and block.startswith(mark)):
            self._record_bytes, self._in_header = 0, mark != b""
            name = start + 1 + len(mark)
            self._record_name = block[name : name + _NAME_BYTES]
        self._record_bytes += len(block) - (start + 1)
        self._ended_line = block.endswith((b"\n", b"\r"))
        self._in_header = self._in_header and _line_ends(block[start + 1 :]) == 0
        if self._in_header and self._record_bytes > MAX_HEADER_BYTES:
            raise self.error(f"a header of more than {MAX_HEADER_BYTES:,} bytes")
        if self._record_bytes > self._max_record_bytes:
            words = self._record_name.decode("utf-8", "replace").split(maxsplit=1)
            record = f"record {words[0]}" if mark and words else "record"
            raise self.error(f"{record}: longer than {self._max_record_bytes:,} letters")

    def _without_last_blanks(self, block: bytes) -> bytes:
        """Hold back blanks at the end of the block: they may be the end of the input."""
        text = self._held + block
        kept = text.rstrip(_BLANKS)
        if len(text) - len(kept) > _HELD_BYTES:
            kept = text
        self._held = text[len(kept) :]
        self._fed_lines += kept.count(b"\n")
        return kept

    def _last_bytes(self) -> bytes:
        held, self._held = self._held, b""
        # A record has four lines; the fourth is empty where the sequence is.
        complete = {3: b"\n", 2: b"\n\n"}.get(self._fed_lines % 4, held)
        if self.kind == "fastq" and held.count(b"\n") >= len(complete):
            self._fed_lines += len(complete)
            held = complete
        return held + self._decoder.decode(b"", final=True).encode()


def _line_ends(text: bytes) -> int:
    letters = np.frombuffer(text, dtype=np.uint8)
    ends = np.count_nonzero(letters == ord("\n"))
    if b"\r" in text:
        ends += text.count(b"\r") - text.count(b"\r\n")
    return int(ends)
