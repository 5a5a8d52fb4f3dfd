"""The directory that a run works in: one run at a time, nothing of anyone else's removed."""

from __future__ import annotations

import errno
import logging
import re
import shutil
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from virnucpro.core.errors import InputError, OutputError, UsageError
from virnucpro.core.files import locked
from virnucpro.pipeline.paths import RunPaths
from virnucpro.pipeline.run_record import read_run, refuse
from virnucpro.reports.html import REPORT_FILES

logger = logging.getLogger("virnucpro.pipeline")

LOCK = ".virnucpro.lock"
CHECKPOINTS = ".checkpoints"

# What a killed run can leave under a name that is not final: of the file in brackets.
_TEMPORARY = re.compile(r"\.(.+)\.tmp-\d+|(.+_merged)\.tmp")
_BEGUN = re.compile(rf"{re.escape(LOCK)}|{re.escape(CHECKPOINTS)}|\.run\.json\.tmp-\d+")
# What lies in the folder of checkpoints; anything else there is somebody else's.
_INTERNAL = re.compile(
    r"ledger|records\.tsv|chunks\.fa|orfs\.bin|unique\.bin|scores\.bin|contigs\.tsv|input_\d+"
    r"|(esm|dnabert)_v2_shards|\.sort-.+|\..+\.tmp-\d+"
)


@contextmanager
def working_in(output_dir: Path, resume: bool, force: bool) -> Iterator[None]:
    """Make the directory and hold it for this process until the block ends.

    Nothing is removed before the directory is held, and nothing that a run did not list.

    Where an input turns out to be bad, or a file to be somebody else's, before a new run has
    finished any unit of work, nothing is left; what an earlier run left stays.

    Raises:
        UsageError: another process works there; or it is not empty, and neither `resume` nor
            `force` allows to go on.
        OutputError: it cannot be made or written, or is lost while the block runs.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"{output_dir} is a file; give a directory with --output-dir")
    with output_errors(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        _check(output_dir, resume, force)
        with locked(output_dir / LOCK):
            _check(output_dir, resume, force)  # it may have changed hands
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


def remove_leftovers(paths: RunPaths) -> None:
    """Remove temporary files of a run that was killed here; call it in a directory that is held.

    A temporary file is ours if the file that it was to become is one that run.json lists.
    """
    run = read_run(paths.output_dir) or {"files": []}
    listed = [path for path in _ours(paths.output_dir, run["files"]) if path != paths.checkpoints]
    names = {paths.run_json.name, *(path.name for path in listed)}
    folders = {paths.output_dir, *(path.parent for path in listed)}
    candidates = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    for folder in (paths.esm_v2, paths.dnabert_v2):
        if folder in listed and folder.is_dir():
            inside = [*folder.rglob(".*")]
            names |= {_becomes(path) for path in inside}
            candidates += inside
    left = [path for path in candidates if _becomes(path) in names]
    if paths.checkpoints.is_dir():
        left += (path for path in paths.checkpoints.rglob(".*") if _INTERNAL.fullmatch(path.name))
    for path in left:
        _remove(path)
    if left:
        logger.info("Removed %d temporary files that an earlier run left", len(left))


def remove_intermediates(paths: RunPaths, data: dict[str, Any]) -> None:
    """Remove what only the stages needed, and folders that are empty then.

    Args:
        paths: of the run.
        data: its run.json; what `outputs` names stays, and so does the report.
    """
    root = paths.output_dir
    kept = {root / name for name in (*data["outputs"], *REPORT_FILES)}
    for path in _ours(root, data["files"]):
        if path not in kept and path not in (paths.checkpoints, paths.samples):
            _remove(path)
    _clear_checkpoints(paths.checkpoints, kept)
    for folder in (paths.nucleotide_dir, paths.protein_dir):
        with suppress(OSError):
            folder.rmdir()


def remove_report(paths: RunPaths, data: dict[str, Any]) -> None:
    """Remove the report that a run made, before its tables become others."""
    pages = {paths.output_dir / name for name in REPORT_FILES}
    for path in _ours(paths.output_dir, data["files"]):
        if path in pages:
            _remove(path)


def _check(output_dir: Path, resume: bool, force: bool) -> None:
    """Refuse a directory that may not be used."""
    content = {path.name for path in output_dir.iterdir()}
    is_begun = LOCK in content and all(map(_BEGUN.fullmatch, content))
    if is_begun or not content:
        return
    run = read_run(output_dir)
    is_ours = run is not None or (output_dir / CHECKPOINTS / "ledger").is_dir()
    if force:
        if "run.json" in content and not is_ours:
            refuse(output_dir / "run.json")
        return
    if not is_ours:
        raise UsageError(
            f"{output_dir} is not empty and holds no run of ours; choose another --output-dir, "
            "or --force to write beside what is there, over nothing"
        )
    if not resume:
        status = run.get("status") if run is not None else "run.json missing or damaged"
        status = "interrupted" if status == "running" else status
        raise UsageError(
            f"{output_dir} holds an earlier run ({status}); "
            "--resume goes on with it, --force starts over"
        )


def _start_over(output_dir: Path) -> None:
    run = read_run(output_dir)
    if run is None:
        return
    for path in _ours(output_dir, run["files"]):
        if path != output_dir / CHECKPOINTS:
            _remove(path)
    _clear_checkpoints(output_dir / CHECKPOINTS)
    (output_dir / "run.json").unlink(missing_ok=True)


def _clear_checkpoints(folder: Path, kept: Container[Path] = ()) -> None:
    """Remove what is ours in the folder of checkpoints, and the folder where nothing is left."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path not in kept and _INTERNAL.fullmatch(path.name):
            _remove(path)
    with suppress(OSError):
        folder.rmdir()


def _becomes(path: Path) -> str:
    """Name of the file that a temporary one was to become; empty if it is no temporary one."""
    found = _TEMPORARY.fullmatch(path.name)
    if found is None:
        return ""
    return found[1] or f"{found[2]}.pt"


def _ours(output_dir: Path, names: Iterable[Any]) -> Iterator[Path]:
    """The files that run.json lists; a name that leaves the directory is passed over."""
    root = output_dir.resolve()
    for name in names:
        path = output_dir / str(name)
        if Path(str(name)).is_absolute() or ".." in Path(str(name)).parts or "\0" in str(name):
            continue
        if path == output_dir or path.is_symlink() or not path.resolve().is_relative_to(root):
            continue
        yield path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
