"""The directory that a run works in: one run at a time, nothing of anyone else's removed.

A file is ours if the ledger lists it, or if it lies in the folder of checkpoints under a name
that only we give. Files go one by one, by name; no link is followed on the way.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import InputError, OutputError, UsageError
from virnucpro.core.files import locked
from virnucpro.pipeline.paths import CHECKPOINTS, LEDGER
from virnucpro.sequences.unpack import STDIN

logger = logging.getLogger("virnucpro.pipeline")

LOCK = ".virnucpro.lock"
_BEGUN = re.compile(rf"{re.escape(LOCK)}|{re.escape(CHECKPOINTS)}")
_TEMPORARY = re.compile(r"(.*/)?(?:\.([^/]+)\.tmp-[\d-]+|([^/]+_merged)\.tmp)", re.DOTALL)
# What lies in the folder of checkpoints.
_SORTED = re.compile(rf"{re.escape(CHECKPOINTS)}/\.sort-(?:\d+|merged)")
_INTERNAL = re.compile(
    rf"(?:{re.escape(CHECKPOINTS)}/)(?:input_\d+|contigs\.tsv|\.sort-(?:\d+|merged)"
    r"|ledger/(?:files\.txt|[0-9a-f]{24}-[0-9a-f]{24}\.entry)"
    r"|(?:esm|dnabert)_v2_shards/shard_\d+\.h5)"
)


@contextmanager
def working_in(
    output_dir: Path, resume: bool, force: bool, inputs: Sequence[Path] = ()
) -> Iterator[None]:
    """Make the directory and hold it for this process until the block ends.

    Nothing is removed before the directory is held. Where an input turns out to be bad, or a
    file to be somebody else's, before a new run has finished any unit of work, nothing is left;
    what an earlier run left stays.

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
                _remove(output_dir, our_files(output_dir))
            is_new = not _claimed(output_dir)
            try:
                yield
            except (InputError, UsageError):
                if is_new and len([*(output_dir / CHECKPOINTS / LEDGER).glob("*.entry")]) < 2:
                    _remove(output_dir, our_files(output_dir))  # it knows its inputs, no more
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


def our_files(output_dir: Path) -> Iterator[Path]:
    """The files that are there of the run in `output_dir`, none of them reached by a link."""
    names = {*_claimed(output_dir), *filter(_INTERNAL.fullmatch, _inside(output_dir, CHECKPOINTS))}
    for name in sorted(names):
        path = output_dir / name
        if path.is_file() and not _has_link(output_dir, name):
            yield path


def remove_leftovers(output_dir: Path) -> None:
    """Remove temporary files of a run that was killed here; call it in a directory that is held.

    A temporary file is ours if the file that it was to become is.
    """
    listed = {"run.json", *_claimed(output_dir)}
    folders = {Path(name).parent.as_posix() for name in listed if not _has_link(output_dir, name)}
    left = []
    for folder in folders:
        if (output_dir / folder).is_dir():
            names = (path.relative_to(output_dir) for path in (output_dir / folder).iterdir())
            left += [name.as_posix() for name in names if _becomes(name.as_posix()) in listed]
    for name in _inside(output_dir, CHECKPOINTS):
        if _INTERNAL.fullmatch(_becomes(name)) or _SORTED.fullmatch(name):
            left.append(name)
    paths = [output_dir / name for name in left if not _has_link(output_dir, name)]
    if count := _remove(output_dir, paths):
        logger.info("Removed %d temporary files that an earlier run left", count)


def remove_intermediates(output_dir: Path, kept: Collection[Path]) -> None:
    """Remove what only the stages needed, and folders that are empty then.

    Args:
        output_dir: of the run.
        kept: files that stay, beside the ledger.
    """
    ledger = output_dir / CHECKPOINTS / LEDGER
    stays = {*kept, output_dir / CHECKPOINTS / "contigs.tsv"}
    gone = [p for p in our_files(output_dir) if p not in stays and p.parent != ledger]
    _remove(output_dir, gone)
    Ledger(output_dir, ledger).disclaim(*gone)


def check_free(output_dir: Path, files: Iterable[Path]) -> None:
    """See that files can be made: none is there that is not ours, and no link is on the way.

    Raises:
        UsageError: names the file, or the link.
    """
    known = set(_claimed(output_dir))
    for path in files:
        name = path.relative_to(output_dir).as_posix()
        if (link := _link_on_the_way(output_dir, name)) is not None:
            refuse(link)
        if name not in known and path.exists() and not path.is_dir():
            refuse(path)


def refuse(path: Path) -> NoReturn:
    """Stop before a file is written over that no run of ours made.

    Raises:
        UsageError: names the file.
    """
    what = "is a link" if path.is_symlink() else "is there already"
    raise UsageError(
        f"{path} {what} and no file of an earlier run; move it away, or choose another --output-dir"
    )


def _check(output_dir: Path, resume: bool, force: bool, inputs: Sequence[Path]) -> None:
    """Refuse a directory that may not be used."""
    for name in ("run.json", LOCK, f"{CHECKPOINTS}/{LEDGER}", *_claimed(output_dir)):
        if (link := _link_on_the_way(output_dir, name)) is not None:
            refuse(link)
    content = {path.name for path in output_dir.iterdir()}
    is_ours = bool(_claimed(output_dir))
    if not content or (LOCK in content and not is_ours and all(map(_BEGUN.fullmatch, content))):
        return
    if not is_ours and "run.json" in content:
        refuse(output_dir / "run.json")
    if not is_ours and not force:
        raise UsageError(
            f"{output_dir} is not empty and holds no run of ours; choose another --output-dir, "
            "or --force to write beside what is there, over nothing"
        )
    if not resume and not force:
        raise UsageError(
            f"{output_dir} holds an earlier run; --resume goes on with it, --force starts over"
        )
    ours = {_identity(path): path for path in our_files(output_dir)}
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


def _claimed(output_dir: Path) -> list[str]:
    """Names that the ledger lists, but for those that lead out of the directory."""
    if _link_on_the_way(output_dir, f"{CHECKPOINTS}/{LEDGER}") is not None:
        return []
    names = Ledger(output_dir, output_dir / CHECKPOINTS / LEDGER).claimed()
    return [name for name in names if _is_sane(name)]


def _is_sane(name: str) -> bool:
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def _becomes(name: str) -> str:
    """The file that a temporary one was to become; empty if it has no name of a temporary one.

    >>> _becomes(".checkpoints/.contigs.tsv.tmp-12"), _becomes("x_merged/output_1_merged.tmp")
    ('.checkpoints/contigs.tsv', 'x_merged/output_1_merged.pt')
    """
    found = _TEMPORARY.fullmatch(name)
    return f"{found[1] or ''}{found[2] or f'{found[3]}.pt'}" if found else ""


def _link_on_the_way(output_dir: Path, name: str) -> Path | None:
    """The first link among `name` and the folders on the way to it; None where there is none."""
    path = output_dir
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():
            return path
    return None


def _has_link(output_dir: Path, name: str) -> bool:
    return _link_on_the_way(output_dir, name) is not None


def _inside(output_dir: Path, folder: str) -> Iterator[str]:
    """Names of all files below a folder; no link is followed."""
    if _has_link(output_dir, folder):
        return
    for top, _, files in os.walk(output_dir / folder):
        for file in files:
            yield (Path(top) / file).relative_to(output_dir).as_posix()


def _remove(output_dir: Path, files: Iterable[Path]) -> int:
    """Remove files, and the folders that they leave empty; how many files."""
    gone = list(files)
    folders = {parent for path in gone for parent in path.relative_to(output_dir).parents}
    for path in gone:
        path.unlink(missing_ok=True)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if folder.parts and not _has_link(output_dir, folder.as_posix()):
            with suppress(OSError):  # it is not empty
                (output_dir / folder).rmdir()
    return len(gone)
