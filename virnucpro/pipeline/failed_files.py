"""failed_files.txt: what could not be done, one line each, `path|encoder or stage|reason`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from virnucpro.core.files import atomic_write


def replace_lines(log: Path, is_old: Callable[[str], bool], lines: Sequence[str]) -> None:
    """Put `lines` in place of those that `is_old` picks; without any line there is no file."""
    known = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    kept = [line for line in known if not is_old(line)]
    if kept or lines:
        with atomic_write(log, "w") as file:
            file.writelines(f"{line}\n" for line in (*kept, *lines))
    else:
        log.unlink(missing_ok=True)


def one_line(reason: str) -> str:
    r"""A reason that cannot be taken for two lines, or for another column.

    >>> one_line("bad\n  file|x")
    'bad file/x'
    """
    return " ".join(reason.split()).replace("|", "/")
