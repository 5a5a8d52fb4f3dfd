"""Viral regions inside contigs, from the interval file of a run."""

from __future__ import annotations

from pathlib import Path

from virnucpro.core.errors import InputError

NAMES = ("regions.bed", "viral_regions.bed")


def read_regions(output_dir: Path, wanted: set[str]) -> dict[str, list[tuple[int, int]]]:
    """Intervals (nt, 0-based, end excluded) of the wanted contigs; empty without such a file.

    Raises:
        InputError: a line is not BED.
    """
    regions: dict[str, list[tuple[int, int]]] = {}
    path = next((output_dir / name for name in NAMES if (output_dir / name).exists()), None)
    if path is None:
        return regions
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) < 3 or fields[0] not in wanted:
                continue
            try:
                regions.setdefault(fields[0], []).append((int(fields[1]), int(fields[2])))
            except ValueError as error:
                raise InputError(
                    path, "is not BED: start and end must be numbers", number
                ) from error
    return regions
