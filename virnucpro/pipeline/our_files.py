"""Which files of an output directory are a run's own, and how they go: one by one, by name.

A file is ours if run.json lists it, or the folder of ours that it lies in, and if it has a name
that a run gives. What has another name was made by somebody else, wherever it lies, and so was
every link: none is followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from virnucpro.core.errors import UsageError
from virnucpro.reports.html import REPORT_FILES
from virnucpro.reports.table_files import FASTA_NAMES, TABLE_NAMES

LOCK = ".virnucpro.lock"
CHECKPOINTS = ".checkpoints"
# Listed as folders: how many files they get is not known when they are made.
FOLDERS = (CHECKPOINTS, "esm_v2", "dnabert_v2")

_TABLES = "|".join(map(re.escape, (*TABLE_NAMES, *FASTA_NAMES.values())))
_FILE = re.compile(
    "|".join(
        (
            r"run\.json", r"failed_files\.txt", r"chunks\.tsv", *map(re.escape, REPORT_FILES),
            rf"(samples/[^/]+/)?({_TABLES})",
            r"[^/]+_chunked\d+\.fa", r"[^/]+_nucleotide\.fa", r"[^/]+_protein\.faa",
            r"[^/]+_nucleotide/output_\d+(\.fa|_DNABERT_S\.pt)",
            r"[^/]+_protein/output_\d+(\.fa|_ESM\.pt)",
            r"[^/]+_merged/output_\d+_merged\.pt",
            r"[^/]+_merged/prediction_results(\.txt|_highestscore\.csv)",
            r"(esm|dnabert)_v2/(stage\.json|embeddings(\.partial)?\.h5|logs/worker_\d+\.log)",
            r"\.checkpoints/(run_record\.json|(records|contigs)\.tsv|(orfs|unique|scores)\.bin)",
            r"\.checkpoints/(input_\d+|ledger/[0-9a-f]+\.json)",
            r"\.checkpoints/(esm|dnabert)_v2_shards/shard_\d+\.h5",
            r"\.checkpoints/\.sort-[^/]+/(\d+-0|merging)",
        )
    ),
    re.DOTALL,
)  # fmt: skip
_FOLDER = re.compile(
    r"samples(/[^/]+)?|[^/]+_(nucleotide|protein|merged)|(esm|dnabert)_v2(/logs)?"
    r"|\.checkpoints(/(ledger|(esm|dnabert)_v2_shards|\.sort-[^/]+))?",
    re.DOTALL,
)
_TEMPORARY = re.compile(r"(.*/)?(?:\.([^/]+)\.tmp-\d+|([^/]+_merged)\.tmp)", re.DOTALL)
_SORTED = f"{CHECKPOINTS}/.sort-"


def files_of(output_dir: Path, names: Collection[str]) -> Iterator[Path]:
    """The files that are there of a run which lists these names, temporary ones of folders too."""
    for name in names:
        if name in FOLDERS:
            for path in _inside(output_dir / name):
                inner = _name(output_dir, path)
                if _is_ours(inner) or _is_ours(_becomes(inner)):
                    yield path
        elif _is_ours(name) and not _has_link(output_dir, name) and (output_dir / name).is_file():
            yield output_dir / name


def leftovers(output_dir: Path, names: Collection[str]) -> Iterator[Path]:
    """The temporary files that a killed run left: of the files that it lists, and of run.json."""
    listed = {"run.json", *filter(_is_ours, names)}
    for folder in sorted({str(Path(name).parent) for name in listed}):
        if not _has_link(output_dir, folder) and (output_dir / folder).is_dir():
            for path in (output_dir / folder).iterdir():
                if _becomes(_name(output_dir, path)) in listed and _is_file(path):
                    yield path
    for folder in FOLDERS:
        if folder in names or folder == CHECKPOINTS:
            for path in _inside(output_dir / folder):
                inner = _name(output_dir, path)
                is_sorted = inner.startswith(_SORTED) and _is_ours(inner)
                if is_sorted or _is_ours(_becomes(inner)):
                    yield path


def remove(output_dir: Path, files: Iterable[Path], names: Collection[str]) -> int:
    """Remove files, and what is empty then of the folders of a run that lists these names.

    Returns:
        How many files were removed.
    """
    count = 0
    for path in list(files):
        path.unlink(missing_ok=True)
        count += 1
    folders = {parent for name in filter(_is_ours, names) for parent in Path(name).parents}
    for whole in FOLDERS:
        if not (output_dir / whole).is_symlink():
            tops = (Path(top) for top, _, _ in os.walk(output_dir / whole))
            folders |= {top.relative_to(output_dir) for top in tops}
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if _FOLDER.fullmatch(str(folder)) and not _has_link(output_dir, str(folder)):
            with suppress(OSError):  # it is not empty
                (output_dir / folder).rmdir()
    return count


def refuse_links(output_dir: Path, names: Collection[str] = ()) -> None:
    """See that no link lies where a run has its own files and folders.

    Args:
        output_dir: itself may be a link.
        names: of files that are going to be removed.

    Raises:
        UsageError: names the link.
    """
    for name in ("run.json", LOCK, *FOLDERS, *filter(_is_ours, names)):
        refuse_link_on_the_way(output_dir, name)
    for folder in FOLDERS:
        for path in _inside(output_dir / folder, links=True):
            inner = _name(output_dir, path)
            if _is_ours(inner) or _FOLDER.fullmatch(inner):
                refuse(path)


def refuse_link_on_the_way(output_dir: Path, name: str) -> None:
    """See that neither `name` nor a folder on the way to it from `output_dir` is a link.

    Raises:
        UsageError: names the link.
    """
    path = output_dir
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():
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


def _is_ours(name: str) -> bool:
    """Whether a run gives a file this name.

    >>> [_is_ours(name) for name in ("calls.tsv", "esm_v2/stage.json", "esm_v2/notes", "a/../b")]
    [True, True, False, False]
    """
    is_sane = ".." not in Path(name).parts and "\0" not in name
    return is_sane and _FILE.fullmatch(name) is not None


def _becomes(name: str) -> str:
    """The file that a temporary one was to become; empty if it has no name of a temporary one.

    >>> _becomes(".checkpoints/.records.tsv.tmp-12"), _becomes("x_merged/output_1_merged.tmp")
    ('.checkpoints/records.tsv', 'x_merged/output_1_merged.pt')
    """
    found = _TEMPORARY.fullmatch(name)
    return f"{found[1] or ''}{found[2] or f'{found[3]}.pt'}" if found else ""


def _has_link(output_dir: Path, name: str) -> bool:
    """Whether a name leads through a link, or out of the directory."""
    parts = Path(name).parts
    ways = [output_dir.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    return ".." in parts or any(way.is_symlink() for way in ways)


def _inside(folder: Path, links: bool = False) -> Iterator[Path]:
    """All files below a folder, or all links; no link is followed."""
    if folder.is_symlink():
        return
    for top, folders, files in os.walk(folder):
        for path in (Path(top, name) for name in (*folders, *files)):
            if path.is_symlink() if links else _is_file(path):
                yield path


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _name(output_dir: Path, path: Path) -> str:
    return str(path.relative_to(output_dir))
