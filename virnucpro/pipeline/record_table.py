"""The internal table of input records: written once while reading, streamed ever after.

Bounded memory is the reason for a file: a run of many millions of records never holds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from virnucpro.core.records import Status

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_FIELDS = 8


@dataclass(frozen=True, slots=True)
class RecordRow:
    """One input record as later stages need it.

    Attributes:
        seq_id: unique within the sample.
        joint_id: unique within the run.
        sample: the input that it came from.
        length: nt without gaps.
        gaps: gap letters removed.
        status: why it is not scored, or None where it goes on.
        chunks: how many chunks it was cut into.
        header: as given.
    """

    seq_id: str
    joint_id: str
    sample: str
    length: int
    gaps: int
    status: Status | None
    chunks: int
    header: str

    def line(self) -> str:
        """The row as text, tabs and line ends escaped."""
        fields = (
            self.seq_id, self.joint_id, self.sample, self.length, self.gaps, self.status or "",
            self.chunks, self.header,
        )  # fmt: skip
        return "\t".join(_escape(str(field)) for field in fields) + "\n"


def read_rows(path: Path) -> Iterator[RecordRow]:
    """Stream the table in input order."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            fields = [_unescape(field) for field in line.rstrip("\n").split("\t")]
            seq_id, joint_id, sample, length, gaps, status, chunks, header = fields[:_FIELDS]
            yield RecordRow(
                seq_id, joint_id, sample, int(length), int(gaps),
                Status(status) if status else None, int(chunks), header,
            )  # fmt: skip


def _escape(text: str) -> str:
    if "\t" not in text and "\\" not in text and "\n" not in text and "\r" not in text:
        return text
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def _unescape(text: str) -> str:
    if "\\" not in text:
        return text
    plain = {"\\": "\\", "t": "\t", "n": "\n", "r": "\r"}
    letters = iter(text)
    return "".join(plain[next(letters)] if letter == "\\" else letter for letter in letters)
