"""Read what a run left behind: run.json, calls.tsv and chunks.tsv, row by row.

Columns are found by their names in the header line, so that tables with fewer or more of them
can be read; memory is bounded by one row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from virnucpro.core.errors import InputError, UsageError


@dataclass(frozen=True, slots=True)
class Call:
    """One row of calls.tsv; an absent number is None, an absent text is empty.

    Attributes:
        seq_id: unique id.
        sample: name of its input.
        length: nt.
        chunks: chunks it was cut into.
        scored: chunks that were scored.
        supporting: chunks that speak for a virus.
        opposing: chunks that speak against.
        status: one of the words of the `status` column.
        p_virus: probability of being viral.
        fdr: expected false discovery rate of all records of its sample that rank as high.
        call: `virus`, `non-virus`, `uncertain`, or empty where nothing was scored.
        class_hint: kind of virus, where the model offers one.
    """

    seq_id: str
    sample: str
    length: int
    chunks: int
    scored: int | None
    supporting: int | None
    opposing: int | None
    status: str
    p_virus: float | None
    fdr: float | None
    call: str
    class_hint: str


@dataclass(frozen=True, slots=True)
class ChunkScore:
    """One row of chunks.tsv: a window of a contig (nt, 0-based, end excluded) and its score."""

    seq_id: str
    start: int
    end: int
    frame: str
    p_virus: float | None


def read_run_json(output_dir: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UsageError: there is none, or it was not written by this program.
    """
    path = output_dir / "run.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{output_dir} holds no run: {path.name} is missing or damaged") from error
    if not isinstance(data, dict) or data.get("tool") != "virnucpro":
        raise UsageError(f"{path} was not written by virnucpro")
    return data


def read_calls(path: Path) -> Iterator[Call]:
    """Stream calls.tsv.

    Raises:
        InputError: it is missing, or a row does not fit the header.
    """
    for row in read_rows(path, needed=("id", "length", "status", "p_virus", "call")):
        try:
            yield _call(row)
        except ValueError as error:
            raise InputError(path, f"record '{row['id']}': {error}") from error


def read_chunks(path: Path) -> Iterator[ChunkScore]:
    """Stream chunks.tsv; where there is no such file, nothing.

    Raises:
        InputError: a row does not fit the header.
    """
    if not path.exists():
        return
    for row in read_rows(path, needed=("id", "start", "end", "p_virus")):
        try:
            yield _chunk(row)
        except ValueError as error:
            raise InputError(path, f"chunk of '{row['id']}': {error}") from error


def _call(row: dict[str, str]) -> Call:
    return Call(
        seq_id=row["id"],
        sample=row.get("sample", ""),
        length=int(row["length"]),
        chunks=_integer(row.get("chunks")) or 0,
        scored=_integer(row.get("chunks_scored")),
        supporting=_integer(row.get("supporting")),
        opposing=_integer(row.get("opposing")),
        status=row["status"],
        p_virus=_number(row["p_virus"]),
        fdr=_number(row.get("fdr")),
        call=row["call"],
        class_hint=row.get("class_hint", ""),
    )


def _chunk(row: dict[str, str]) -> ChunkScore:
    start, end = int(row["start"]), int(row["end"])
    strand, frame = row.get("strand", ""), row.get("frame", "")
    label = frame if not strand or frame[:1] in "FR" else f"{strand}{frame}"
    return ChunkScore(row["id"], start, end, label, _number(row["p_virus"]))


def read_rows(path: Path, needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Stream a table as one mapping a row, column name to text.

    Raises:
        InputError: it is missing, lacks a needed column, or a row does not fit the header.
    """
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            yield from _named(path, file, needed)
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})") from error


def _named(path: Path, file: IO[str], needed: tuple[str, ...]) -> Iterator[dict[str, str]]:
    names: list[str] = []
    for number, line in enumerate(file, start=1):
        if not names and line.startswith("#"):
            continue
        fields = line.rstrip("\n").split("\t")
        if not names:
            names = fields
            missing = [name for name in needed if name not in names]
            if missing:
                raise InputError(path, f"has no column '{missing[0]}'", number)
            continue
        if len(fields) != len(names):
            problem = f"{len(fields)} fields where the header has {len(names)}"
            raise InputError(path, problem, number)
        yield dict(zip(names, fields, strict=True))


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def _integer(text: str | None) -> int | None:
    return int(text) if text else None
