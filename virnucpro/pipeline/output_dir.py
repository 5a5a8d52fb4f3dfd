"""The directory that a run works in: one run at a time, nothing of anyone else's removed."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from virnucpro.core.errors import InputError, OutputError, UsageError
from virnucpro.core.files import locked
from virnucpro.pipeline.ingest import check_content
from virnucpro.pipeline.inputs import Source
from virnucpro.pipeline.our_files import (
    CHECKPOINTS,
    FOLDERS,
    LOCK,
    files_of,
    leftovers,
    refuse,
    refuse_links,
    remove,
)
from virnucpro.pipeline.run_record import COPY, read_run
from virnucpro.reports.html import REPORT_FILES
from virnucpro.sequences.unpack import STDIN

logger = logging.getLogger("virnucpro.pipeline")

_BEGUN = re.compile(rf"{re.escape(LOCK)}|{re.escape(CHECKPOINTS)}|\.run\.json\.tmp-\d+")


@contextmanager
def working_in(
    output_dir: Path, resume: bool, force: bool, inputs: Sequence[Path] = ()
) -> Iterator[None]:
    """Make the directory and hold it for this process until the block ends.

    Nothing is removed before the directory is held, and nothing that a run did not list.

    Where an input turns out to be bad, or a file to be somebody else's, before a new run has
    finished any unit of work, nothing is left; what an earlier run left stays.

    Args:
        output_dir: made if missing.
        resume: go on with an earlier run.
        force: remove the files of an earlier run.
        inputs: everything that the run reads; `-` is standard input.

    Raises:
        UsageError: another process works there; or it is not empty, and neither `resume` nor
            `force` allows to go on; or an input is a file of the earlier run, or a link lies
            where a run has its own files.
        OutputError: it cannot be made or written, or is lost while the block runs.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"{output_dir} is a file; give a directory with --output-dir")
    with output_errors(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        _check(output_dir, resume, force, inputs)
        with locked(output_dir / LOCK):
            _check(output_dir, resume, force, inputs)  # it may have changed hands
            if force:
                _start_over(output_dir)
            is_new = read_run(output_dir) is None
            try:
                yield
            except (InputError, UsageError):
                if is_new and not any((output_dir / CHECKPOINTS / "ledger").glob("*.json")):
                    _start_over(output_dir)
                raise


@contextmanager
def output_errors(output_dir: Path) -> Iterator[None]:
    """What the system refuses in this block is an error of the output directory.

    Raises:
        OutputError: names the file, where the system does, and what it said.
    """
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else output_dir
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise OutputError(f"{where}: {error.strerror or error}{remedy}") from error


_ELSEWHERE = "; choose another --output-dir"
_REMEDIES = {
    errno.EACCES: _ELSEWHERE, errno.EPERM: _ELSEWHERE, errno.EROFS: _ELSEWHERE,
    errno.ENOENT: _ELSEWHERE, errno.ENOSPC: "; make room, then --resume goes on",
    errno.EDQUOT: "; make room, then --resume goes on",
}  # fmt: skip


def check_same_inputs(
    output_dir: Path, earlier: dict[str, Any], described: Sequence[dict[str, object]],
    sources: Sequence[Source],
) -> None:  # fmt: skip
    """See that a run may go on, or be made anew: of the same content, or of the same files.

    Content that changed is read before anything of the earlier run is touched.

    Raises:
        UsageError: names what lies there.
        InputError: a file that changed holds no records any more, or cannot be read.
    """
    inputs = [entry for entry in earlier["inputs"] if isinstance(entry, dict)]
    known, found = (sorted(str(e.get("sha256")) for e in each) for each in (inputs, described))
    if not inputs or known == found:
        return
    old, new = ([str(entry.get("path")) for entry in each] for each in (inputs, described))
    if old == new:
        changed = {
            str(now["path"])
            for before, now in zip(inputs, described, strict=True)
            if before.get("sha256") != now["sha256"]
        }
        try:
            check_content([source for source in sources if changed.intersection(source.names)])
        except InputError as error:
            kept = f"{error.problem}; the run of what it held before is kept in {output_dir}"
            raise InputError(error.path, kept, error.line) from error
    places = [[entry.get("place") for entry in each] for each in (inputs, described)]
    if None in places[1] or places[0] != places[1]:
        raise UsageError(
            f"{output_dir} holds a run of {', '.join(old)}, not of {', '.join(new)}; "
            "choose another --output-dir, or --force to start over"
        )


def remove_leftovers(output_dir: Path) -> None:
    """Remove temporary files of a run that was killed here; call it in a directory that is held.

    A temporary file is ours if the file that it was to become is one that run.json lists.
    """
    names = _listed(output_dir)
    if count := remove(output_dir, leftovers(output_dir, names), names):
        logger.info("Removed %d temporary files that an earlier run left", count)


def remove_intermediates(output_dir: Path, data: dict[str, Any]) -> None:
    """Remove what only the stages needed, and folders that are empty then.

    Args:
        output_dir: of the run.
        data: its run.json; what `outputs` names stays, and so does the report.
    """
    kept = {output_dir / name for name in ("run.json", COPY, *data["outputs"], *REPORT_FILES)}
    names = [str(name) for name in data["files"]]
    done_with = (path for path in files_of(output_dir, names) if path not in kept)
    remove(output_dir, done_with, names)


def remove_report(output_dir: Path, data: dict[str, Any]) -> None:
    """Remove the report that a run made, before its tables become others."""
    pages = [name for name in REPORT_FILES if name in data["files"]]
    remove(output_dir, files_of(output_dir, pages), pages)


def _check(output_dir: Path, resume: bool, force: bool, inputs: Sequence[Path]) -> None:
    """Refuse a directory that may not be used."""
    refuse_links(output_dir, _listed(output_dir) if force else ())
    content = {path.name for path in output_dir.iterdir()}
    is_begun = LOCK in content and all(map(_BEGUN.fullmatch, content))
    if is_begun or not content:
        return
    run = read_run(output_dir)
    is_ours = run is not None or (output_dir / CHECKPOINTS / "ledger").is_dir()
    if not is_ours and force:
        # Where no run has begun, not even what lies in a folder of that name is ours.
        foreign = [] if LOCK in content else files_of(output_dir, FOLDERS)
        for path in (*foreign, output_dir / "run.json"):
            if path.exists():
                refuse(path)
    if not is_ours and not force:
        raise UsageError(
            f"{output_dir} is not empty and holds no run of ours; choose another --output-dir, "
            "or --force to write beside what is there, over nothing"
        )
    if not resume and not force:
        status = run.get("status") if run is not None else "run.json missing or damaged"
        status = "interrupted" if status == "running" else status
        raise UsageError(
            f"{output_dir} holds an earlier run ({status}); "
            "--resume goes on with it, --force starts over"
        )
    _spare_inputs(output_dir, inputs)


def _spare_inputs(output_dir: Path, inputs: Sequence[Path]) -> None:
    """Refuse an input that is a file of the run which lies here, whatever name it is given by.

    Raises:
        UsageError: names the input.
    """
    names = _listed(output_dir)
    if read_run(output_dir) is None:  # its list was lost, so that any name of ours may be its own
        found = (path for depth in ("*", "*/*", "*/*/*") for path in output_dir.glob(depth))
        names = [str(path.relative_to(output_dir)) for path in found]
    files = [*files_of(output_dir, names), *leftovers(output_dir, names)]
    ours = {_identity(path): path for path in files}
    for path in inputs:
        if (own := ours.get(_identity(path))) is not None:
            raise UsageError(
                f"{path} is {own}, a file of the run in {output_dir}, which a new run there "
                "removes or replaces; choose another --output-dir"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common; None where there is none."""
    try:
        found = os.fstat(sys.stdin.fileno()) if str(path) == STDIN else path.stat()
    except (OSError, ValueError, AttributeError):  # no such file; standard input is none, or closed
        return None
    return found.st_dev, found.st_ino


def _listed(output_dir: Path) -> list[str]:
    """The names that the run here says are its own, and those that every run has."""
    run = read_run(output_dir) or {"files": []}
    return ["run.json", CHECKPOINTS, *map(str, run["files"])]


def _start_over(output_dir: Path) -> None:
    """Remove the run that lies here."""
    if read_run(output_dir) is not None:
        names = _listed(output_dir)
        remove(output_dir, files_of(output_dir, names), names)
