"""The tables of a run, one row a record, a chunk or a region, in input order.

Columns are only ever added at the end, and `SCHEMA` counts the changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from virnucpro.core.errors import InputError
from virnucpro.core.records import Status
from virnucpro.scores.thresholds import VIRUS

R = TypeVar("R", bound="_Row")

SCHEMA = {"calls.tsv": 2, "chunks.tsv": 2, "regions.tsv": 1, "regions.fasta": 1}

CALL_COLUMNS = (
    "id", "length", "chunks", "orfs", "status", "p_virus", "call", "model", "sample",
    "chunks_scored", "share_scored", "supporting", "opposing", "fdr", "class_hint",
    "p_record", "p_sample", "kind", "kind_score", "family", "topology",
)  # fmt: skip
CHUNK_COLUMNS = (
    "id", "chunk", "start", "end", "strand", "frame", "orf_start", "orf_end", "p_virus", "sample",
)  # fmt: skip
REGION_COLUMNS = (
    "id", "region", "start", "end", "length", "share_of_contig", "supporting", "opposing",
    "mean_p_virus", "log_odds", "call", "sample",
)  # fmt: skip
CONTIG_COLUMNS = (*CALL_COLUMNS, "joint_id", "host")
# Columns that are not called as the field of a row.
_FIELDS = {
    "id": "seq_id", "chunk": "number", "region": "number", "status": "status.value",
    "mean_p_virus": "mean_p", "kind": "class_hint",
}  # fmt: skip


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


# By the type of a field.
_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str, "str | None": lambda text: text or None,
    "int": int, "int | None": lambda text: int(text) if text else None,
    "float": _number, "float | None": lambda text: _number(text) if text else None,
    "Status": Status,
}  # fmt: skip


class _Row:
    """What rows of all tables have: fields are written and read by their names and types."""

    __slots__ = ()
    columns: ClassVar[tuple[str, ...]]
    _getter: ClassVar[Any]  # takes a row's values in the order of columns
    _plan: ClassVar[list[tuple[int, Callable[[str], Any]]]]  # each field's column, and parser
    seq_id: str
    sample: str

    def __init_subclass__(cls) -> None:
        names = [_FIELDS.get(column, column) for column in cls.columns]
        places = {name.split(".")[0]: at for at, name in enumerate(names)}
        cls._getter = attrgetter(*names)
        cls._plan = [
            (places[name], _PARSERS[kind])
            for name, kind in cls.__annotations__.items()
            if name in places
        ]

    @property
    def key(self) -> tuple[str, str]:
        """Sample and id: what tells a record from every other one of a run."""
        return self.sample, self.seq_id

    def values(self) -> tuple[Any, ...]:
        """The fields in the order of the table's columns; what is absent is None or empty."""
        return tuple(self._getter(self))

    def line(self, *more: object) -> str:
        """The row as text, with columns behind its own."""
        return "\t".join(map(_text, (*self.values(), *more))) + "\n"

    @classmethod
    def of(cls: type[R], texts: list[str]) -> R:
        """A row from its text; a `ValueError` says what is wrong with it."""
        return cls(*[parse(texts[place]) for place, parse in cls._plan])

    @classmethod
    def read(
        cls: type[R], path: Path, wanted: Callable[[list[str]], bool] = lambda texts: True
    ) -> Iterator[R]:
        """Stream the wanted rows of a table; other columns, or a bad row, are an `InputError`."""
        for number, texts in enumerate(read_fields(path, cls.columns), start=2):
            if wanted(texts):
                try:
                    row = cls.of(texts)
                except ValueError as error:
                    raise InputError(path, f"record '{texts[0]}': {error}", number) from error
                yield row


@dataclass(frozen=True, slots=True)
class CallRow(_Row):
    """What became of one input record."""

    columns: ClassVar = CALL_COLUMNS
    seq_id: str  # unique within its sample
    length: int  # nt, gaps removed
    chunks: int  # chunks it was cut into
    orfs: int  # ORFs found in them
    status: Status  # whether it was scored, and if not why
    # Probability of being viral, and `virus`, `non-virus` or `uncertain`: of a pair, where the
    # record is a mate. None where nothing was scored.
    p_virus: float | None
    call: str | None
    model: str  # its name
    sample: str = ""  # name of the input it came from
    chunks_scored: int = 0
    supporting: int = 0  # chunks with p_virus above one half
    opposing: int = 0  # chunks with p_virus below one half
    # Expected share of false ones among the sample's records that score at least as high, at the
    # sample's own share of viruses; None where nothing was scored.
    fdr: float | None = None
    class_hint: str = ""  # kind of virus, where the model is certain; in the table `kind`, too
    kind_score: float | None = None  # share of that kind among all kinds; None without one
    family: str = ""  # where the model is certain
    topology: str = ""  # `circular` where it ends as it begins, else `linear`; empty if not scored
    p_record: float | None = None  # p_virus of this record alone; None where it has no score
    p_sample: float | None = None  # p_virus at the share of viruses of its sample

    @property
    def share_scored(self) -> float | None:
        """Chunks scored over chunks; None without chunks."""
        return self.chunks_scored / self.chunks if self.chunks else None


@dataclass(frozen=True, slots=True)
class ChunkRow(_Row):
    """A chunk and its best ORF; nt in the contig, 0-based, end excluded."""

    columns: ClassVar = CHUNK_COLUMNS
    seq_id: str  # of the contig
    number: int  # its place among the contig's chunks, from 1
    start: int
    end: int
    frame: str = ""  # of the ORF with the highest P(virus), F1 to R3; empty without a score
    orf_start: int | None = None
    orf_end: int | None = None
    p_virus: float | None = None  # calibrated as for a contig of this one chunk
    sample: str = ""  # name of the input that the contig came from

    @property
    def strand(self) -> str:
        """`+` or `-`, of the best ORF; empty without one."""
        return {"F": "+", "R": "-"}.get(self.frame[:1], "")


@dataclass(frozen=True)
class RegionRow(_Row):
    """A viral stretch of a contig; nt, 0-based, end excluded."""

    columns: ClassVar = REGION_COLUMNS
    seq_id: str  # of the contig
    number: int  # its place among the contig's regions, from 1
    start: int
    end: int
    share_of_contig: float
    supporting: int  # chunks with p_virus above one half
    opposing: int  # chunks below that were bridged
    mean_p: float  # mean p_virus of all of them
    log_odds: float  # sum of their log-odds
    call: str  # of the contig as a whole
    sample: str

    @property
    def length(self) -> int:
        """Of the stretch (nt)."""
        return self.end - self.start

    @property
    def is_inside(self) -> bool:
        """Whether this is a part of a contig that is not called viral, as a provirus is."""
        return self.call != VIRUS and self.share_of_contig < 1


def header(columns: Iterable[str]) -> str:
    """The first line of a table."""
    return "\t".join(columns) + "\n"


def rounded(value: float) -> float:
    """A number as the tables print it: six significant digits."""
    return float(_text(value))


def read_fields(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    """Stream the rows of a table as text; other columns, or too few, are an `InputError`."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            if file.readline() != header(columns):
                raise InputError(path, "does not have the columns of this version", 1)
            for number, line in enumerate(file, start=2):
                texts = line.rstrip("\n").split("\t")
                if len(texts) != len(columns):
                    problem = f"{len(texts)} fields where the header has {len(columns)}"
                    raise InputError(path, problem, number)
                yield texts
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from error


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
