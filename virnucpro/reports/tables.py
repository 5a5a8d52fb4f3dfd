"""The tables of a run, one row a record, a chunk or a region, in input order.

Columns are only ever added at the end, and `SCHEMA` counts the changes.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from virnucpro.core.errors import InputError
from virnucpro.core.records import Status
from virnucpro.scores.thresholds import VIRUS

T = TypeVar("T")

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


class _Row:
    """What rows of all tables have."""

    __slots__ = ()
    seq_id: str
    sample: str

    @property
    def key(self) -> tuple[str, str]:
        """Sample and id: what tells a record from every other one of a run."""
        return self.sample, self.seq_id

    def values(self) -> tuple[Any, ...]:
        """The fields in the order of the table's columns; what is absent is None or empty."""
        raise NotImplementedError

    def fields(self) -> list[str]:
        """The row as text, column by column."""
        return [*map(_text, self.values())]

    def line(self) -> str:
        """The row as text."""
        return "\t".join(self.fields()) + "\n"


@dataclass(frozen=True, slots=True)
class CallRow(_Row):
    """What became of one input record."""

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

    def values(self) -> tuple[Any, ...]:  # noqa: D102
        return (
            self.seq_id, self.length, self.chunks, self.orfs, str(self.status), self.p_virus,
            self.call, self.model, self.sample, self.chunks_scored, self.share_scored,
            self.supporting, self.opposing, self.fdr, self.class_hint, self.p_record,
            self.p_sample, self.class_hint, self.kind_score, self.family, self.topology,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChunkRow(_Row):
    """A chunk and its best ORF; nt in the contig, 0-based, end excluded."""

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

    def values(self) -> tuple[Any, ...]:  # noqa: D102
        return (
            self.seq_id, self.number, self.start, self.end, self.strand, self.frame,
            self.orf_start, self.orf_end, self.p_virus, self.sample,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RegionRow(_Row):
    """A viral stretch of a contig; nt, 0-based, end excluded."""

    seq_id: str  # of the contig
    number: int  # its place among the contig's regions, from 1
    start: int
    end: int
    contig_length: int
    supporting: int  # chunks with p_virus above one half
    opposing: int  # chunks below that were bridged
    mean_p: float  # mean p_virus of all of them
    log_odds: float  # sum of their log-odds
    call: str  # of the contig as a whole
    sample: str

    @property
    def is_inside(self) -> bool:
        """Whether this is a part of a contig that is not called viral, as a provirus is."""
        return self.call != VIRUS and self.end - self.start < self.contig_length

    def values(self) -> tuple[Any, ...]:  # noqa: D102
        length = self.end - self.start
        return (
            self.seq_id, self.number, self.start, self.end, length, length / self.contig_length,
            self.supporting, self.opposing, self.mean_p, self.log_odds, self.call, self.sample,
        )  # fmt: skip


def header(columns: Iterable[str]) -> str:
    """The first line of a table."""
    return "\t".join(columns) + "\n"


def read_call_rows(path: Path) -> Iterator[CallRow]:
    """Stream a calls.tsv of this version; other columns, or a bad row, are an `InputError`."""
    return _rows(path, CALL_COLUMNS, call_row)


def read_chunk_rows(path: Path) -> Iterator[ChunkRow]:
    """Stream a chunks.tsv of this version; other columns, or a bad row, are an `InputError`."""
    return _rows(path, CHUNK_COLUMNS, chunk_row)


def read_region_rows(
    path: Path, wanted: Callable[[str, str, str], bool] = lambda sample, seq_id, call: True
) -> Iterator[RegionRow]:
    """Stream the wanted rows of a regions.tsv; other columns, or a bad row, are an `InputError`.

    The length of a contig is as exact as the table's shares, six digits.
    """

    def row(fields: list[str]) -> RegionRow:
        seq_id, *places, share, supporting, opposing, mean_p, log_odds, call, sample = fields
        number, start, end, length = map(int, places)
        return RegionRow(
            seq_id, number, start, end, round(length / float(share)), int(supporting),
            int(opposing), _number(mean_p) or 0.0, _number(log_odds) or 0.0, call, sample,
        )  # fmt: skip

    return _rows(path, REGION_COLUMNS, row, lambda f: wanted(f[-1], f[0], f[-2]))


def contig_line(row: CallRow, joint_id: str, host: int = -1) -> str:
    """A row of the internal table of contigs: a call, its id among all samples, and its host."""
    return f"{row.line()[:-1]}\t{joint_id}\t{host}\n"


def rounded(value: float) -> float:
    """A number as the tables print it: six significant digits."""
    return float(_text(value))


def call_row(fields: list[str]) -> CallRow:
    """A row of calls.tsv from its text; a `ValueError` says what is wrong with it."""
    (seq_id, length, chunks, orfs, status, p_virus, call, model, sample, scored, _,
     supporting, opposing, fdr, class_hint, p_record, p_sample, _, kind_score, family,
     topology) = fields  # fmt: skip
    return CallRow(
        seq_id, int(length), int(chunks), int(orfs), Status(status), _number(p_virus),
        call or None, model, sample, int(scored), int(supporting), int(opposing),
        _number(fdr), class_hint, _number(kind_score), family, topology, _number(p_record),
        _number(p_sample),
    )  # fmt: skip


def chunk_row(fields: list[str]) -> ChunkRow:
    """A row of chunks.tsv from its text; a `ValueError` says what is wrong with it."""
    seq_id, number, start, end, _, frame, orf_start, orf_end, p_virus, sample = fields
    return ChunkRow(
        seq_id, int(number), int(start), int(end), frame,
        int(orf_start) if orf_start else None, int(orf_end) if orf_end else None,
        _number(p_virus), sample,
    )  # fmt: skip


def _rows(
    path: Path, columns: tuple[str, ...], make: Callable[[list[str]], T],
    wanted: Callable[[list[str]], bool] = bool,
) -> Iterator[T]:  # fmt: skip
    for number, fields in enumerate(read_fields(path, columns), start=2):
        if wanted(fields):
            try:
                row = make(fields)
            except ValueError as error:
                raise InputError(path, f"record '{fields[0]}': {error}", number) from error
            yield row


def read_fields(path: Path, columns: tuple[str, ...]) -> Iterator[list[str]]:
    """Stream the rows of a table as text; other columns, or too few, are an `InputError`."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            if file.readline() != header(columns):
                raise InputError(path, "does not have the columns of this version", 1)
            for number, line in enumerate(file, start=2):
                fields = line.rstrip("\n").split("\t")
                if len(fields) != len(columns):
                    problem = f"{len(fields)} fields where the header has {len(columns)}"
                    raise InputError(path, problem, number)
                yield fields
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from error


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(text: str) -> float | None:
    number = float(text) if text else None
    if number is not None and not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number
