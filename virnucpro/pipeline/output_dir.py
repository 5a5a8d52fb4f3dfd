"""The directory that a run works in: all its paths; one run at a time; no file of others removed.

A file is ours if the ledger lists it, or if it lies in the folder of checkpoints under a name
that only we give. Files go one by one, by name; no link is followed on the way.
"""

import errno
import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, chain
from pathlib import Path
from typing import NoReturn

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.errors import DeviceError, InputError, ModelError, OutputError, UsageError
from virnucpro.core.files import locked
from virnucpro.core.text import clipped
from virnucpro.reports.html import REPORT_FILES
from virnucpro.reports.table_files import TABLE_NAMES
from virnucpro.sequences.fasta import sample_name
from virnucpro.sequences.streams import STDIN

logger = logging.getLogger("virnucpro.pipeline")

CHECKPOINTS, LEDGER, CLAIMS, LOCK = ".checkpoints", "ledger", "claims", ".virnucpro.lock"
_TEMPORARY = re.compile(r"(.*/)?(?:\.([^/]+)\.tmp-[\d-]+|([^/]+_merged)\.tmp)", re.DOTALL)
_SORTED = r"\.checkpoints/\.sort-(?:\d+|merged)"
_INTERNAL = re.compile(
    rf"{_SORTED}|\.checkpoints/(?:input_\d+|contigs\.tsv"
    r"|ledger/(?:files\.txt|[0-9a-f]{24}-[0-9a-f]{24}\.entry)"
    r"|claims/(?:claim-\d+-\d+|failed-\d+|beat-[^/]+)|(?:esm|dnabert)_v2_shards/shard_\d+\.h5)"
)
_ELSEWHERE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
_REMEDIES = {
    **dict.fromkeys(_ELSEWHERE, "; choose another --output-dir"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "; make room, then --resume goes on"),
}


def default_output_dir(input_files: Sequence[Path | str]) -> Path:
    """`{stem}_predictions` in the current directory; the first input gives the stem."""
    return Path(f"{sample_name(input_files[0])}_predictions")


class RunPaths:
    """Where everything of one run lies; `stem` is the first input's name without suffixes."""

    def __init__(self, output_dir: Path, stem: str, chunk_nt: int) -> None:
        self.output_dir, self.run_json = output_dir, output_dir / "run.json"
        self.checkpoints = output_dir / CHECKPOINTS
        self.ledger = self.checkpoints / LEDGER
        self.calls, self.chunks = output_dir / "calls.tsv", output_dir / "chunks.tsv"
        # calls.tsv before thresholds: the model's own calls, no fdr; outlives the run
        self.contigs = self.checkpoints / "contigs.tsv"
        self.samples = output_dir / "samples"  # where a run has several
        self.failed_files = output_dir / "failed_files.txt"
        self.pages = [output_dir / name for name in REPORT_FILES]

        # in the original's format
        self.chunked = output_dir / f"{stem}_chunked{chunk_nt}.fa"  # never read back
        self.nucleotide = output_dir / f"{stem}_nucleotide.fa"
        self.protein = output_dir / f"{stem}_protein.faa"
        self.nucleotide_dir = output_dir / f"{stem}_nucleotide"
        self.protein_dir = output_dir / f"{stem}_protein"
        self.merged_dir = output_dir / f"{stem}_merged"
        self.predictions = self.merged_dir / "prediction_results.txt"
        self.consensus = self.merged_dir / "prediction_results_highestscore.csv"

        # what depends on input and model alone, and a run with other thresholds starts from
        self.model_outputs = [self.predictions, self.consensus, self.chunks, self.contigs]

    def split_of(self, slot: str, number: int) -> Path:
        """The `number`-th split file of a slot, `dna` or `protein`, counted from 1."""
        folder = self.nucleotide_dir if slot == "dna" else self.protein_dir
        return folder / f"output_{number}.fa"

    def features_of(self, slot: str, number: int) -> Path:
        """Vectors of the `number`-th split file of a slot."""
        encoder = "DNABERT_S" if slot == "dna" else "ESM"
        return self.split_of(slot, number).with_name(f"output_{number}_{encoder}.pt")

    def merged(self, number: int) -> Path:
        """Merged vectors of the `number`-th split file."""
        return self.merged_dir / f"output_{number}_merged.pt"


@contextmanager
def working_in(
    output_dir: Path, resume: bool, force: bool, inputs: Sequence[Path] = ()
) -> Iterator[None]:
    """Make the directory and hold it for this process until the block ends.

    Nothing is removed before it is held. Where one of the `inputs`, the model or the device turns
    out to be bad, or a file to be somebody else's, before a new run has finished any unit, nothing
    is left of it, nor of the directory if it was made here. A UsageError tells why it may not be
    used, an OutputError that it cannot be written, or is lost.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"{output_dir} is a file; give a directory with --output-dir")
    ledger = Ledger(output_dir, output_dir / CHECKPOINTS / LEDGER)
    made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        _check(ledger, resume, force, inputs)
        with locked(output_dir / LOCK):
            is_new = not _check(ledger, resume, force, inputs)  # it may have changed hands
            if force:
                _remove(ledger, our_files(ledger))
            try:
                yield
            except (InputError, UsageError, ModelError, DeviceError, ModuleNotFoundError):
                entries = [*ledger.folder.glob("*.entry")]
                if (is_new or force) and len(entries) < 2:  # it knows its inputs, no more
                    _remove(ledger, [*our_files(ledger), output_dir / LOCK])
                    with suppress(OSError):  # others have put a file there
                        for folder in made:
                            folder.rmdir()
                raise
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else output_dir
        remedy = _REMEDIES.get(error.errno or 0, "")
        raise OutputError(f"{where}: {error.strerror or error}{remedy}") from error


def _check(ledger: Ledger, resume: bool, force: bool, inputs: Sequence[Path]) -> bool:
    """Refuse a directory that may not be used; whether the ledger lists files there."""
    output_dir = ledger.root
    claimed = ledger.claimed()
    for name in ("run.json", LOCK, f"{CHECKPOINTS}/{LEDGER}", *claimed):
        _refuse_links(output_dir, name)
    content = {path.name for path in output_dir.iterdir()}
    if not content or (LOCK in content and not claimed and content <= {LOCK, CHECKPOINTS}):
        return False
    if not claimed:
        if clashing := sorted(content.intersection(["run.json", "chunks.tsv", *TABLE_NAMES])):
            _refuse(output_dir / clashing[0])
        if not force:
            names = clipped(", ".join(sorted(content - {LOCK})[:3]))
            problem = f"holds files of others ({names}); choose another --output-dir"
            remedy = "--force to start there all the same: they stay as they are"
            raise UsageError(f"{output_dir} {problem}, or {remedy}")
    if not resume and not force:
        problem = "holds an earlier run; --resume goes on with it, --force starts over"
        raise UsageError(f"{output_dir} {problem}")
    ours = {_identity(path): path for path in our_files(ledger)}
    for path in inputs:
        if found := ours.get(_identity(path)):
            problem = f"is {found}, a file of the run in {output_dir}, which a new run there"
            raise UsageError(f"{path} {problem} removes or replaces; choose another --output-dir")
    return bool(claimed)


def our_files(ledger: Ledger) -> Iterator[Path]:
    """The files that are there of the run of `ledger`, none of them reached by a link."""
    inside = _names(ledger.root, (ledger.root / CHECKPOINTS).rglob("*"))
    yield from _files(ledger.root, {*ledger.claimed(), *filter(_INTERNAL.fullmatch, inside)})


def remove_leftovers(ledger: Ledger) -> None:
    """Remove temporary files of a killed run: those that were to become a file of ours."""
    root, listed = ledger.root, {"run.json", *ledger.claimed()}
    folders = {(root / name).parent for name in listed}
    near = chain.from_iterable(folder.glob("*") for folder in folders)
    names = _names(root, chain((root / CHECKPOINTS).rglob("*"), near))
    left = [n for n in names if (whole := _becomes(n)) in listed or _INTERNAL.fullmatch(whole)]
    if count := _remove(ledger, _files(root, left)):
        logger.info("Removed %d temporary files that an earlier run left", count)


def remove_intermediates(ledger: Ledger, kept: Collection[Path]) -> None:
    """Remove what only the stages needed, and folders that are empty then; the ledger stays."""
    gone = [p for p in our_files(ledger) if p not in kept and p.parent != ledger.folder]
    _remove(ledger, gone)
    ledger.disclaim(*gone)


def check_free(ledger: Ledger, files: Iterable[Path]) -> None:
    """See that files can be made: a UsageError names one that is not ours, or a link on the way."""
    known = set(ledger.claimed())
    for path in files:
        name = path.relative_to(ledger.root).as_posix()
        _refuse_links(ledger.root, name)
        if name not in known and path.exists() and not path.is_dir():
            _refuse(path)


def _refuse_links(output_dir: Path, name: str) -> None:
    if (link := _link_on_the_way(output_dir, name)) is not None:
        _refuse(link)


def _refuse(path: Path) -> NoReturn:
    what = "is a link" if path.is_symlink() else "is there already"
    remedy = "move it away, or choose another --output-dir"
    raise UsageError(f"{path} {what} and no file of an earlier run; {remedy}")


def _identity(path: Path) -> tuple[int, int] | None:
    """What all names of a file have in common; None where there is none."""
    try:
        found = os.fstat(sys.stdin.fileno()) if str(path) == STDIN else path.stat()
    except (OSError, ValueError, AttributeError):  # no such file; standard input is none, or closed
        return None
    return found.st_dev, found.st_ino


def _becomes(name: str) -> str:
    """The file that a temporary one was to become; empty if it has no name of a temporary one.

    >>> _becomes(".checkpoints/.contigs.tsv.tmp-12"), _becomes("x_merged/output_1_merged.tmp")
    ('.checkpoints/contigs.tsv', 'x_merged/output_1_merged.pt')
    """
    if re.fullmatch(_SORTED, name):  # gets no other name
        return name
    found = _TEMPORARY.fullmatch(name)
    return f"{found[1] or ''}{found[2] or f'{found[3]}.pt'}" if found else ""


def _link_on_the_way(output_dir: Path, name: str) -> Path | None:
    """The first link among `name` and the folders on the way to it; None where there is none."""
    _, *ways = accumulate(Path(name).parts, Path.joinpath, initial=output_dir)
    return next(filter(Path.is_symlink, ways), None)


def _names(output_dir: Path, files: Iterable[Path]) -> set[str]:
    return {path.relative_to(output_dir).as_posix() for path in files}


def _files(output_dir: Path, names: Iterable[str]) -> Iterator[Path]:
    for name in sorted(names):
        path = output_dir / name
        if path.is_file() and _link_on_the_way(output_dir, name) is None:
            yield path


def _remove(ledger: Ledger, files: Iterable[Path]) -> int:
    """Remove files, and folders of the run that are empty then; how many files."""
    root, gone = ledger.root, list(files)
    ours = [*map(root.joinpath, ledger.claimed()), ledger.folder / "files.txt", *gone]
    folders = {folder for path in ours for folder in path.relative_to(root).parents}
    for path in gone:
        path.unlink(missing_ok=True)
    for folder in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        if folder.parts and _link_on_the_way(root, folder.as_posix()) is None:
            with suppress(OSError):  # it is not empty
                (root / folder).rmdir()
    return len(gone)
