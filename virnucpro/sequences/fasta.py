"""FASTA and FASTQ -> records with ids that are unique within the run; our own plain FASTA files.

Gaps, in FASTA also blanks and digits, are left out; any other sign that is no letter tells of
joined files or another format and ends the reading, as a guess would lose records.
"""

import re
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain, islice, zip_longest
from pathlib import Path, PurePath
from typing import IO, NamedTuple

from virnucpro.core.errors import InputError
from virnucpro.core.records import HEADER_BYTES, Record, as_utf8
from virnucpro.core.text import clipped, shown
from virnucpro.sequences.letters import DNA_LETTERS
from virnucpro.sequences.read_log import ReadLog
from virnucpro.sequences.streams import BLANKS, BLOCK_BYTES, STDIN, TextStream, open_unpacked

_PACKED_SUFFIXES = {".gz", ".bgz", ".bz2", ".xz", ".zst"}
WRAP_NT = 60
MATE_ENDINGS = ("/1", "/2")
_WORD = re.compile(r"[^ \t\n\v\f\r]+")

MAX_HEADER_BYTES = 1 << 20
GAPS = b"-.*"
_DIGITS = string.digits.encode()
_LETTERS = string.ascii_letters.encode()
_COMMON = DNA_LETTERS + GAPS + _DIGITS + b" \n"  # a line of these alone is of FASTA
_QUALITIES = bytes(range(33, 127))
_FOUR = 4  # lines of a record of FASTQ
_NAME_BYTES = 200
_LINE_KEPT_BYTES = 1 << 16  # of a line that is not over yet, to look at it whole

_JOINED = "were files joined? Give them as inputs of their own"
_UNKNOWN = {
    b">": f"'>' inside a line: the line before it has no end; {_JOINED}",
    b"@": f"'@' in a sequence: a record of FASTQ? {_JOINED}",
    b"+": f"'+' in a sequence: a record of FASTQ? {_JOINED}",
    b"/": f"'/' in a sequence: a record of GenBank or EMBL? {_JOINED}",
    b";": "';' in a sequence: remove comments inside records",
    b"#": "'#' in a sequence: remove comments inside records",
    b"=": "'=' in a sequence: write the letters that it stands for",
}
# Lines of other formats that hold known signs alone. No line of bases alone is one of them: each
# keyword has a letter that stands for none.
_OTHER_FORMAT = re.compile(
    rb"^(?:LOCUS|DEFINITION|ACCESSION|VERSION|KEYWORDS|SOURCE|REFERENCE|COMMENT|FEATURES|CLUSTAL)"
    rb" +\S|^(?:BASE COUNT|ORIGIN) *(?:$|\d)|^(?:ID|DE|OS|OC|RL|RX|PR|FH|FT|SQ)   +\S"
    rb"|^[^\nA-Za-z]*[A-Za-z][^\n\t]*\t[ \t\v\f]*[^ \t\v\f\n]",
    re.MULTILINE,
)
_ID_WITH_MARK = re.compile(rb"[ \t\v\f]*[^ \t\v\f]*>")


class Entry(NamedTuple):
    """One record as it is written."""

    header: str  # without `>` or `@` and blanks behind it; bytes that are not UTF-8 escaped
    sequence: str  # case as given
    gaps: int = 0  # letters that were left out
    line: int | None = None  # of its header; None in FASTA


class Stretch(TextStream):
    """Whole records out of an input, to be read by another process; it is called as the input."""

    def __init__(self, stream: TextStream, text: bytes, line: int) -> None:
        self.path, self.kind, self._text = stream.path, stream.kind, text
        self.lines = self.skipped_lines = line

    def blocks(self) -> Iterator[bytes]:
        """As of all the input."""
        for start in range(0, len(self._text), BLOCK_BYTES):
            block = self._text[start : start + BLOCK_BYTES]
            self.lines += block.count(b"\n")
            yield block

    def __fspath__(self) -> str:
        return str(self.path)


def sample_name(path: Path | str) -> str:
    """The name of an input: without a compression suffix, then without one more.

    >>> [sample_name(name) for name in ("a/reads.fastq.gz", "b/contigs.v2.fa", "-")]
    ['reads', 'contigs.v2', 'stdin']
    """
    if str(path) == STDIN:
        return "stdin"
    name = PurePath(path)
    if name.suffix.lower() in _PACKED_SUFFIXES:
        name = name.with_suffix("")
    return as_utf8(name.stem)


def read_records(paths: Iterable[Path | str], log: ReadLog | None = None) -> Iterator[Record]:
    """The records of all inputs, in order; `-` is standard input. Streams.

    The id is the header up to the first ASCII blank, else `record_{n}`, n counting from 1; a second
    record with an id becomes `{id}__2`. An InputError tells of what is no FASTA or FASTQ, or a
    record over 1 Gnt, with its line, after the records before it.
    """
    log = ReadLog() if log is None else log
    for path in paths:
        log.sample = sample_name(path)
        yield from records_of(path, log)
    log.warn()


def records_of(path: Path | str | Stretch, log: ReadLog) -> Iterator[Record]:
    """The records of one input, of the sample in the log; warnings wait there."""
    for entry in _entries(path, log):
        seq_id, joint_id = log.ids_of(log.wished_id(first_word(entry.header)))
        yield Record(seq_id, entry.header, entry.sequence, log.sample, entry.gaps, joint_id)


def pairs_of(paths: Sequence[Path | str | Stretch], log: ReadLog) -> Iterator[Record]:
    """The mates of two files, or of one that holds them in turn, as `{id}/1` and `{id}/2`.

    They follow each other, whose headers have the same first word, or one that ends in `/1` and
    `/2`, `.1` and `.2`, or `_1` and `_2`. Sample and warnings are in the log.
    """
    entries = [_entries(path, log) for path in paths]
    both = zip_longest(entries[0], entries[-1])
    for number, (first, second) in enumerate(both, start=1):
        if first is None or second is None:
            if len(paths) == 1:
                raise InputError(paths[0], f"holds {2 * number - 1} records: the last has no mate")
            short = paths[0] if first is None else paths[1]
            raise InputError(short, f"ends after {number - 1} records, its mate file does not")
        one, two = first_word(first.header), first_word(second.header)
        name, is_pair = log.wished_id(one), one == two
        log.records += 1
        if one[:-1] == two[:-1] and one[-2:] in ("/1", ".1", "_1") and two[-1] == "2":
            name, is_pair = name[:-2], len(name) > 2
        if not is_pair:
            names = [shown(as_utf8(entry.header)) for entry in (second, first)]
            problem = f"record {number}: {names[0]} is no mate of {names[1]}"
            raise InputError(paths[-1], problem, second.line)
        ids = log.ids_of(name, MATE_ENDINGS)
        for entry, end in zip((first, second), MATE_ENDINGS, strict=True):
            seq_id, joint_id = (name + end for name in ids)
            yield Record(seq_id, entry.header, entry.sequence, log.sample, entry.gaps, joint_id)


def first_word(header: str) -> str:
    r"""A header up to the first ASCII blank, fit to be an id; empty if it has no word.

    >>> first_word("caf\xe9\xa0au lait")
    'café\xa0au'
    """
    found = _WORD.search(header)
    return as_utf8(found[0]) if found else ""


def _entries(path: Path | str | Stretch, log: ReadLog) -> Iterator[Entry]:
    """The records of one input, in order; a block and a record are in memory."""
    with nullcontext(path) if isinstance(path, Stretch) else open_text(path, log) as text:
        if text.kind is not None:
            yield from _fasta(text, log) if text.kind == "fasta" else _fastq(text, log)


@contextmanager
def open_text(path: Path | str, log: ReadLog) -> Iterator[TextStream]:
    """The text of one input; once it has been read to its end, the log knows of the whole file."""
    with open_unpacked(path, log.count_bytes) as unpacked:
        yield TextStream(unpacked)
        log.digests[str(path)] = unpacked.finish()
        if unpacked.is_cut_short:
            log.cut_short.append(str(unpacked.path))


def _fasta(stream: TextStream, log: ReadLog) -> Iterator[Entry]:
    blocks = stream.blocks()
    text, line = next(blocks)[1:], stream.skipped_lines + 1
    record: _FastaRecord | None = None
    for block in chain(blocks, [b"\n>"]):  # the end comes as if one more record began
        text += block
        first = line
        *pieces, text = text.split(b"\n>")
        for piece in pieces:
            header, _, letters = piece.partition(b"\n")
            letters = letters.replace(b"\n", b"")
            has_mark = b">" in header and _ID_WITH_MARK.match(header)
            is_odd = has_mark or letters.translate(None, DNA_LETTERS)
            if record or is_odd or len(piece) > log.max_record_nt:
                record = record or _FastaRecord(stream, log, line)
                record.add(piece, line)
                entry, record = record.entry(), None  # a long one is in memory once from here on
            else:
                entry = Entry(header.lstrip(BLANKS).decode(*HEADER_BYTES), letters.decode("ascii"))
            line += piece.count(b"\n") + 1
            yield entry
        if line == first:  # a long record: what is known of it goes out of the way
            record = record or _FastaRecord(stream, log, line)
            known = text.rfind(b"\n", -_LINE_KEPT_BYTES)
            known = len(text) if known < 0 else known
            record.add(text[:known], line)
            line += text.count(b"\n", 0, known)
            text = text[known:]


class _FastaRecord:
    """A record of FASTA under way; its text comes in pieces, cut anywhere."""

    def __init__(self, stream: TextStream, log: ReadLog, line: int) -> None:
        self._stream, self._log, self._line = stream, log, line
        self._header, self._in_header = b"", True
        self._letters = bytearray()
        self._gaps = self._digits = self._bytes = 0

    def add(self, text: bytes, line: int) -> None:
        """The next piece of its text, which begins in `line` of the input."""
        stream, log = self._stream, self._log
        self._bytes += len(text)
        if self._in_header:
            header, end, text = text.partition(b"\n")
            self._header += header
            self._in_header, line = not end, line + 1
            if len(self._header) > MAX_HEADER_BYTES:
                problem = f"a header of more than {MAX_HEADER_BYTES:,} bytes"
                raise stream.error(problem, self._line)
        if self._bytes > log.max_record_nt:
            problem = f"record {self._name}: longer than {log.max_record_nt:,} letters"
            raise stream.error(problem, line)
        letters = text.translate(None, b"\n")
        if not letters.translate(None, DNA_LETTERS):
            self._letters += letters
            return
        odd = text.translate(None, _COMMON)
        unknown = odd.translate(None, _LETTERS + BLANKS)[:1]
        place = text.index(unknown) if unknown else len(text)
        if odd and (other := _OTHER_FORMAT.search(text)) and other.start() <= place:
            word = clipped(shown(other[0].split(maxsplit=1)[0].decode("utf-8", "replace")), 40)
            problem = f"{word} begins a line of another format (GenBank, EMBL, GFA, SAM, a table)"
            line += text.count(b"\n", 0, other.start())
            raise stream.error(f"{problem}; {_JOINED}, as FASTA or FASTQ", line)
        if unknown:
            raise stream.error(_problem(unknown), line + text.count(b"\n", 0, place))
        gaps, digits, blanks = (
            len(text) - len(text.translate(None, signs)) for signs in (GAPS, _DIGITS, BLANKS)
        )
        self._gaps, self._digits = self._gaps + gaps, self._digits + digits
        log.gaps, log.digits, log.blanks = log.gaps + gaps, log.digits + digits, log.blanks + blanks
        self._letters += text.translate(None, GAPS + BLANKS + _DIGITS + b"\n")

    def entry(self) -> Entry:
        if self._digits > len(self._letters):
            problem = (
                f"record {self._name}: {self._digits} digits and {len(self._letters)} letters; "
                "give sequences, not their qualities"
            )
            raise self._stream.error(problem, self._line)
        if _ID_WITH_MARK.match(self._header):
            self._log.marks += 1
            where = str(self._stream.error(f"record {self._name}", self._line))
            self._log.first_mark = self._log.first_mark or where
        header = self._header.lstrip(BLANKS).decode(*HEADER_BYTES)
        return Entry(header, self._letters.decode("ascii"), self._gaps)

    @property
    def _name(self) -> str:
        words = self._header[:_NAME_BYTES].split(maxsplit=1) or [b"without a name"]
        return words[0].decode("utf-8", "replace")


def _fastq(stream: TextStream, log: ReadLog) -> Iterator[Entry]:
    line, has_ended = stream.skipped_lines + 1, False
    for lines in _fastq_lines(stream, log):
        if not has_ended and _are_plain_records(lines):
            for header, letters in zip(lines[::_FOUR], lines[1::_FOUR], strict=True):
                name = header[1:].lstrip(BLANKS).decode(*HEADER_BYTES)
                yield Entry(name, letters.decode("ascii"), 0, line)
                line += _FOUR
            continue
        for i in range(0, len(lines), _FOUR):
            four = lines[i : i + _FOUR]
            has_ended = has_ended or not four[0].strip(BLANKS)
            if not has_ended:
                yield _fastq_entry(four, line, stream, log)
            elif b"".join(four).strip(BLANKS):
                place = next(k for k, part in enumerate(four) if part.strip(BLANKS))
                raise stream.error("FASTQ: a blank line before it; remove it", line + place)
            line += _FOUR


def _fastq_lines(stream: TextStream, log: ReadLog) -> Iterator[list[bytes]]:
    """The lines of a block's whole records; at the end what is left, without blank lines."""
    given, last_line, waiting = stream.skipped_lines, 0, list[bytes]()
    for block in stream.blocks():
        waiting.append(block)
        begun = block.rfind(b"\n") + 1
        last_line = len(block) - begun if begun else last_line + len(block)
        if last_line > log.max_record_nt:
            raise stream.error(f"record: longer than {log.max_record_nt:,} letters")
        if whole := (stream.lines - given) // _FOUR * _FOUR:
            lines = b"".join(waiting).split(b"\n")
            yield lines[:whole]
            given, waiting = given + whole, [b"\n".join(lines[whole:])]
    lines = b"".join(waiting).split(b"\n")
    while lines and not lines[-1].strip(BLANKS):
        lines.pop()
    if len(lines) == _FOUR - 1 and not lines[1].strip(BLANKS):
        lines.append(b"")  # without letters the line of qualities is as empty as the end
    yield lines


def _are_plain_records(lines: list[bytes]) -> bool:
    """Whether nothing in whole records of FASTQ needs a closer look."""
    headers, letters, pluses, qualities = (lines[i::_FOUR] for i in range(_FOUR))
    return (
        len(lines) % _FOUR == 0
        and {header[:1] for header in headers} == {b"@"}
        and {*pluses} == {b"+"}
        and [*map(len, letters)] == [*map(len, qualities)]
        and not b"".join(letters).translate(None, DNA_LETTERS)
        and not b"".join(qualities).translate(None, _QUALITIES)
    )


def _fastq_entry(four: list[bytes], line: int, stream: TextStream, log: ReadLog) -> Entry:
    if len(four) < _FOUR and four[0].startswith(b"@"):
        problem = "FASTQ ends inside a record; copy the file again"
        raise stream.error(problem, line + len(four))
    header, letters, plus, qualities = (four + [b""] * _FOUR)[:_FOUR]
    letters = letters.rstrip(BLANKS)
    if len(letters) != len(qualities):
        qualities = qualities.rstrip(BLANKS)
    known, is_quality = _LETTERS + GAPS, not qualities.translate(None, _QUALITIES)
    unknown = letters.translate(None, known)
    is_wrapped = plus != b"" and not plus.translate(None, known + BLANKS)
    has_other_name = plus[1:].strip(BLANKS) not in (b"", header[1:].strip(BLANKS))
    counts = f"{len(letters)} letters and {len(qualities)} qualities"
    faults = (
        (header.startswith(b">"), 0, f"a record of FASTA; {_JOINED}"),
        (not header.startswith(b"@"), 0, f"a record begins with '@'; {_JOINED}"),
        (unknown != b"", 1, _problem(unknown[:1])),
        (is_wrapped, 2, "a sequence on several lines; write it on one: `seqtk seq FILE`"),
        (not plus.startswith(b"+"), 2, "'+' comes after the letters; copy the file again"),
        (has_other_name, 2, "the name after '+' is not the record's; copy the file again"),
        (not is_quality, 3, f"no quality; copy the file again; {_JOINED}"),
        (len(letters) != len(qualities), 3, f"{counts}; copy the file again; {_JOINED}"),
    )
    for is_so, place, problem in faults:
        if is_so:
            raise stream.error(f"FASTQ: {problem}", line + place)
    sequence = letters.translate(None, GAPS)
    gaps = len(letters) - len(sequence)
    log.gaps += gaps
    name = header[1:].lstrip(BLANKS).decode(*HEADER_BYTES)
    return Entry(name, sequence.decode("ascii"), gaps, line)


def _problem(sign: bytes) -> str:
    """Why a sign in a line of sequence cannot be read, and the remedy."""
    if sign.isdigit() or sign in BLANKS:
        what = "a digit" if sign.isdigit() else "a blank"
        return f"{what} in the line of letters; copy the file again"
    if sign in _UNKNOWN:
        return _UNKNOWN[sign]
    shown = f"'{sign.decode()}'" if sign in _QUALITIES else f"byte 0x{sign.hex()}"
    return f"{shown} in a sequence; remove it, or save the file as plain text"


class OddError(Exception):
    """Records that cannot be read apart from the others."""


class Cutter:
    """Cuts an input into stretches by its lines alone, which takes next to no time."""

    def __init__(self, stream: TextStream, most_bytes: int) -> None:
        self._stream, self._most, self._line = stream, most_bytes, stream.skipped_lines
        self._blocks, self._rest = self._whole_marks(), b""

    def take(self, records: int) -> tuple[Stretch, int]:
        """The next `records`, or all that are left; how many they are, if all is well with them.

        An OddError if they are longer than `most_bytes`, and any error of the input.
        """
        is_fasta = self._stream.kind == "fasta"
        mark, left = (b"\n>", records) if is_fasta else (b"\n", _FOUR * records)
        parts, size = list[bytes](), 0
        while left and (block := self._rest or next(self._blocks, b"")):
            found, cut = block.count(mark), len(block)
            if found >= left:
                cut = next(islice(re.finditer(mark, block), left - 1, None)).start() + 1
            left -= min(found, left)
            parts.append(block[:cut])
            size, self._rest = size + cut, block[cut:]
            if size > self._most:
                raise OddError
        text = b"".join(parts)
        stretch = Stretch(self._stream, text, self._line)
        self._line += text.count(b"\n")
        if is_fasta:
            return stretch, records - left + bool(left and text)
        kept = text.rstrip(BLANKS + b"\n")
        return stretch, -(-(kept.count(b"\n") + bool(kept)) // _FOUR)

    def _whole_marks(self) -> Iterator[bytes]:
        """The text, in blocks that do not cut a mark in two."""
        end = b""
        for block in self._stream.blocks():
            block = end + block
            end = b"\n" if block.endswith(b"\n") else b""
            if block := block.removesuffix(end):
                yield block
        yield end


def write_fasta(
    handle: IO[str], entries: Iterable[tuple[str, str]], *, wrapped: bool = False
) -> None:
    """Write (id, sequence) pairs, each on two lines or wrapped at 60 letters. Streams."""
    for seq_id, sequence in entries:
        size = len(sequence) or 1
        width = WRAP_NT if wrapped else size
        handle.write(f">{seq_id}\n")
        handle.writelines(f"{sequence[i : i + width]}\n" for i in range(0, size, width))


def read_fasta(path: Path | str) -> Iterator[tuple[str, str]]:
    """(id, sequence) of each record of a plain FASTA file of ours, in its order; held whole."""
    try:
        with Path(path).open("r", -1, *HEADER_BYTES, newline="\n") as file:
            text = file.read()
    except OSError as error:
        raise InputError(path, f"no readable FASTA file: {clipped(error)}") from error
    if text and text[0] != ">":
        raise InputError(path, "no readable FASTA file: it does not begin with '>'", 1)
    for entry in text[1:].split("\n>") if text else ():
        seq_id, _, lines = entry.partition("\n")
        yield seq_id, lines.replace("\n", "")
