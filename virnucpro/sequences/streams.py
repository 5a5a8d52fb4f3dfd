"""Input bytes -> blocks of text with one kind of line end; what is wrong with a file as a file."""

import codecs
import re
from collections.abc import Iterator
from typing import Literal

from virnucpro.core.errors import InputError
from virnucpro.sequences.unpack import UNPACK_ERRORS, Unpacked, archive_of, packing_of

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
_FOREIGN = [
    (re.compile(begin), name, remedy)
    for begin, name, remedy in (
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
]


class TextStream:
    """The unpacked text of one input: no byte order mark, no NUL byte, line feeds at line ends."""

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked = unpacked
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
        return InputError(self._unpacked.path, problem, line or self.lines + 1)

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
        if inner := packing_of(block) or archive_of(block):
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
            if begin.match(text):
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
