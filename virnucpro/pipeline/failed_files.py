"""failed_files.txt: what could not be done, one line each, `path|encoder or stage|reason`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from virnucpro.core.files import atomic_write
from virnucpro.core.text import one_line


def replace_lines(log: Path, is_old: Callable[[str], bool], lines: Sequence[str]) -> None:
    """Put `lines` in place of those that `is_old` picks; without any line there is no file."""
    known = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    kept = [line for line in known if not is_old(line)]
    if kept or lines:
        with atomic_write(log, "w") as file:
            file.writelines(f"{line}\n" for line in (*kept, *lines))
    else:
        log.unlink(missing_ok=True)


def record_lost_shards(log: Path, folder: Path, label: str, lost: Mapping[int, str]) -> None:
    """Replace what is said of the shards of one packed stage.

    Args:
        log: failed_files.txt.
        folder: of the stage.
        label: the encoder's name there.
        lost: shards that were given up, each with its reason.
    """
    lines = [f"{folder}/shard_{k:05d}|{label}|{one_line(why)}" for k, why in sorted(lost.items())]
    replace_lines(log, lambda line: line.startswith(f"{folder}/shard_"), lines)
