"""calls.tsv: one row for every input record, in input order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

from virnucpro.core.records import Status

CALL_COLUMNS = ("id", "length", "chunks", "orfs", "status", "p_virus", "call", "model")


@dataclass(frozen=True, slots=True)
class CallRow:
    """What became of one input record.

    Attributes:
        seq_id: unique id.
        length: nt, gaps removed.
        chunks: chunks it was cut into.
        orfs: ORFs found in them.
        status: whether it was scored, and if not why.
        p_virus: probability of being viral; None where nothing was scored.
        call: `virus`, `non-virus` or `uncertain`; None where nothing was scored.
        model: name of the model.
    """

    seq_id: str
    length: int
    chunks: int
    orfs: int
    status: Status
    p_virus: float | None
    call: str | None
    model: str


def write_calls(file: IO[str], rows: Iterable[CallRow]) -> int:
    """Write the table: header, tabs, no quotes; returns the number of rows."""
    file.write("\t".join(CALL_COLUMNS) + "\n")
    count = 0
    for row in rows:
        p_virus = "" if row.p_virus is None else f"{row.p_virus:.6g}"
        fields = (
            row.seq_id, row.length, row.chunks, row.orfs, row.status, p_virus,
            row.call or "", row.model,
        )  # fmt: skip
        file.write("\t".join(map(str, fields)) + "\n")
        count += 1
    return count
