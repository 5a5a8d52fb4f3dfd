"""Viral stretches of contigs, from regions.tsv."""

from __future__ import annotations

from pathlib import Path

from virnucpro.core.errors import InputError
from virnucpro.reports.run_files import read_rows


def read_regions(path: Path, wanted: set[str]) -> dict[str, list[tuple[int, int]]]:
    """Intervals (nt, 0-based, end excluded) of the wanted contigs; empty without such a file.

    Raises:
        InputError: a row does not fit the header.
    """
    regions: dict[str, list[tuple[int, int]]] = {}
    if not path.exists():
        return regions
    for row in read_rows(path, needed=("id", "start", "end")):
        if row["id"] not in wanted:
            continue
        try:
            span = int(row["start"]), int(row["end"])
        except ValueError as error:
            raise InputError(path, f"region of '{row['id']}': {error}") from error
        regions.setdefault(row["id"], []).append(span)
    return regions
