"""failed_files.txt: what could not be done, one line each, `path|encoder or stage|reason`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from virnucpro.core.files import atomic_write
from virnucpro.core.text import one_line


def record_failures(
    log: Path, calls: Path, given_up: Mapping[int, str], records: Mapping[str, int]
) -> None:
    """Write what this run could not do; without any failure there is no file.

    Args:
        log: failed_files.txt.
        calls: calls.tsv, whose rows say `failed`.
        given_up: units without scores: a whole line of this file, or the reason alone.
        records: ORFs without a score of each record that lacks any, by joint id.
    """
    if not given_up:
        log.unlink(missing_ok=True)
        return
    lines = []
    for unit, reason in sorted(given_up.items()):
        fields = (
            reason.split("|", 2) if reason.count("|") >= 2 else [f"unit {unit}", "scoring", reason]
        )
        lines.append("|".join((*fields[:2], one_line(fields[2]))))
    lines.append(
        f"{calls}|calls|{len(records)} records failed: {sum(records.values())} ORFs without a score"
    )
    with atomic_write(log, "w") as file:
        file.writelines(f"{line}\n" for line in lines)
