"""The inputs of a run: which files make a sample, and their records in order.

Read twice: to score the records, and to write out those that are called viral.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from virnucpro.core.errors import InputError, UsageError
from virnucpro.core.files import BLOCK_BYTES, atomic_write, sha256_file
from virnucpro.core.records import Record, Status
from virnucpro.core.storage import fetch, url_of
from virnucpro.sequences.alignments import alignment_format, read_alignments
from virnucpro.sequences.fasta import Stretch, pairs_of, records_of, sample_name
from virnucpro.sequences.letters import screen_record
from virnucpro.sequences.read_log import IdRegistry, ReadLog
from virnucpro.sequences.streams import STDIN, standard_input

logger = logging.getLogger("virnucpro.pipeline")

_OF_A_PROCESS = ("/dev/stdin", "/dev/fd/", "/proc/")  # files, where a file was redirected to them

_FASTQ_OF_MATES = re.compile(r"(?:^|[._-])[rR]?1(?:_001)?\.f(?:ast)?q(?:\.|$)")
_FIRST_MATE = re.compile(r"(.+?)((?:[._-][rR]?)?)1((?:_001)?)", re.DOTALL)
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f]")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_FOLDER = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One sample: a file, or two files of mates."""

    sample: str  # its name in tables
    folder: str  # the same as a plain folder name, unique within the run
    names: tuple[str, ...]  # the inputs as the user gave them
    interleaved: bool = False  # mates follow each other in the one file
    paths: tuple[Path, ...]  # where they lie; standard input has been copied to a file
    reference: Path | None = None  # FASTA for CRAM files that need one
    stretches: tuple[Stretch, ...] = ()  # parts of the files, read in place of them
    digests: tuple[str, ...] = ()  # hex SHA-256 when the run began; empty where not known

    @property
    def mates(self) -> int:
        """Records in a row that are one fragment."""
        return 2 if self.interleaved or len(self.paths) == 2 else 1


def plan_sources(
    inputs: Sequence[Path],
    spooled: Mapping[str, Path],
    paired: bool,
    reference: Path | None = None,
    digests: Sequence[str] = (),
    interleaved: bool = False,
) -> tuple[Source, ...]:
    """Group inputs into samples, in argument order; a file that is given twice is told.

    `spooled` has the copy of each input that can be read only once. A UsageError tells of inputs
    that do not pair up, or of standard input given twice.
    """
    if sum(str(path) == STDIN for path in inputs) > 1:
        raise UsageError("standard input can be read once: give '-' once")
    if paired and interleaved:
        raise UsageError("--paired is for two files, --interleaved for one: give one of them")
    if paired and len(inputs) % 2:
        raise UsageError(f"--paired takes inputs two by two, got {len(inputs)}")
    for first, second in zip(inputs[::2], inputs[1::2], strict=True) if paired else ():
        if first == second:
            raise UsageError(f"{first} is given for both mates: --paired takes two files")
    known: dict[tuple[int, int], Path] = {}
    for path in filter(Path.exists, inputs):
        place = path.stat().st_dev, path.stat().st_ino
        if (first := known.setdefault(place, path)) is not path:
            logger.warning(
                "%s is given twice (first as %s): its records are called twice", path, first
            )
    for first, second in pairwise(inputs) if not paired else ():
        if _of_mates(first, second) and _FASTQ_OF_MATES.search(first.name):
            told = "%s and %s look like files of mates: --paired gives a pair one answer"
            logger.warning(told, first, second)
    width = 2 if paired else 1
    samples = sample_names(inputs, paired)
    return tuple(
        Source(
            sample=sample,
            folder=folder,
            names=tuple(map(str, inputs[i : i + width])),
            paths=tuple(spooled.get(str(path), path) for path in inputs[i : i + width]),
            interleaved=interleaved,
            reference=reference,
            digests=tuple(digests[i : i + width]),
        )
        for i, sample, folder in zip(
            range(0, len(inputs), width), samples, folder_names(samples), strict=True
        )
    )


def _of_mates(path: Path, other: Path) -> str:
    """What the names of two files of mates share; empty where they are not named so."""
    mate = _FIRST_MATE.fullmatch(sample_name(path))
    is_mate = mate and sample_name(other) == f"{mate[1]}{mate[2]}2{mate[3]}"
    return mate[1] if mate and is_mate else ""


def sample_names(inputs: Sequence[Path], paired: bool = False) -> list[str]:
    """One name a sample, no two alike: the stem of its first input, of mates what theirs share.

    Inputs of one stem that lie in several folders are called by their folders, as assemblers
    name all their files alike. Names that are alike even so get a number.

    >>> sample_names([Path("gut/contigs.fa"), Path("soil/contigs.fa"), Path("y.fq.gz")])
    ['gut', 'soil', 'y']
    >>> sample_names([Path("a/gut/x.fa"), Path("b/gut/x.fa"), Path("gut.fa")])
    ['gut', 'gut__2', 'gut__3']
    >>> sample_names([Path("r1.fq"), Path("r2.fq"), Path("x_R1_001.fq"), Path("x_R2_001.fq")], True)
    ['r', 'x']
    """
    width = 2 if paired else 1
    firsts, names = inputs[::width], IdRegistry()
    stems = [
        _NOT_PRINTED.sub("_", _of_mates(path, other) or sample_name(path))
        for path, other in zip(firsts, inputs[width - 1 :: width], strict=True)
    ]
    # a folder is called as the user calls it, so that no link is followed
    places = [STDIN if str(path) == STDIN else os.path.abspath(path) for path in firsts]  # noqa: PTH100
    folders = [Path(place).parent for place in places]
    in_folders = Counter(stem for stem, _ in {*zip(stems, folders, strict=True)})
    return [
        names.unique((in_folders[stem] > 1 and _NOT_PRINTED.sub("_", folder.name)) or stem)
        for stem, folder in zip(stems, folders, strict=True)
    ]


def folder_names(samples: Sequence[str]) -> list[str]:
    """Plain folder names for samples: no path, nothing hidden, no two alike in any case.

    >>> folder_names(["../gut 1", "gut-2", "GUT-2", "..."])
    ['gut_1', 'gut-2', 'GUT-2__2', 'sample']
    """
    taken = IdRegistry()
    plain = (_NOT_PLAIN.sub("_", name).lstrip("._-")[:_LONGEST_FOLDER] for name in samples)
    names = [name or "sample" for name in plain]
    return [name + taken.unique(name.lower())[len(name) :] for name in names]


def read_sources(sources: Sequence[Source], log: ReadLog | None = None) -> Iterator[Record]:
    """The records of all samples, in order. Streams. `log` is a new one, silent to read again.

    Ids are unique within a sample, and the same whatever other samples there are. Joint ids are
    unique over all of them: an id that an earlier sample has becomes `{id}__2`. An InputError,
    which names an input as given, tells that it is no sequences, or not what it was at the start.
    """
    log = ReadLog() if log is None else log
    log.joint_ids = IdRegistry() if len(sources) > 1 else None
    for source in sources:
        log.ids, log.records, log.sample = IdRegistry(), 0, source.sample
        try:
            yield from _records(source, log)
            check_unchanged(source, log)
        except InputError as error:
            given = dict(zip(map(str, source.paths), map(shown_name, source.names), strict=True))
            name = given.get(str(error.path), str(error.path))
            raise InputError(name, error.problem, error.line) from error
    log.warn()


def check_unchanged(source: Source, log: ReadLog) -> None:
    """See that a sample, now read, is what it was, or raise an InputError; the log names inputs."""
    for path, digest in zip(source.paths, source.digests, strict=bool(source.digests)):
        if log.digests[str(path)] != digest:
            raise InputError(path, "changed during the run; run again when it is whole")
    for place, name in zip(map(str, source.paths), map(shown_name, source.names), strict=True):
        log.cut_short = [name if path == place else path for path in log.cut_short]
        log.first_mark = log.first_mark.replace(place, name)


def _records(source: Source, log: ReadLog) -> Iterator[Record]:
    places = source.stretches or source.paths
    for path in source.paths if not source.stretches else ():
        if alignment_format(path):
            if source.mates == 1:
                return read_alignments(path, log, source.reference)
            flag = "--interleaved" if source.interleaved else "--paired"
            raise InputError(path, f"holds alignments, which know their mates: drop {flag}")
    return pairs_of(places, log) if source.mates > 1 else records_of(places[0], log)


def spool(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Copy what can be read only once (standard input, pipes), or lies far away, into `folder`.

    Returns the copy of each such input by its name; an InputError if one cannot be read.
    """
    copies: dict[str, Path] = {}
    for number, path in enumerate(paths, start=1):
        url = url_of(path)
        if str(path) in copies or not (url or is_pipe(path)):
            continue
        copies[str(path)] = folder / f"input_{number}"
        with atomic_write(copies[str(path)]) as file:
            if url:
                fetch(url, file)
            else:
                file.writelines(_blocks(path))
    return copies


def _blocks(path: Path) -> Iterator[bytes]:
    with (
        _can_be_read(path),
        nullcontext(standard_input()) if str(path) == STDIN else path.open("rb") as pipe,
    ):
        yield from iter(lambda: pipe.read(BLOCK_BYTES), b"")


def is_pipe(path: Path) -> bool:
    """Whether an input can be read once only; standard input is one."""
    return str(path) == STDIN or (path.exists() and not path.is_file() and not path.is_dir())


def shown_name(name: str) -> str:
    """The name of an input as messages say it."""
    return "standard input" if name == STDIN else name


@contextmanager
def _can_be_read(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(shown_name(str(path)), f"cannot be read ({error.strerror})") from error


def check_inputs(paths: Sequence[Path]) -> None:
    """See that every input can be opened, or raise an InputError."""
    for path in paths:
        if is_pipe(path) or url_of(path):
            continue  # opening a pipe could end who writes to it
        if path.is_dir():
            raise InputError(path, "is a directory; give a FASTA or FASTQ file")
        with _can_be_read(path):
            path.open("rb").close()


def describe_inputs(paths: Sequence[Path], spooled: dict[str, Path]) -> list[dict[str, Any]]:
    """Name, place, size and SHA-256 of every input; no place of what changes with each run."""
    described = []
    for path in paths:
        real = spooled.get(str(path), path)
        with _can_be_read(path):
            size, sha256 = real.stat().st_size, sha256_file(real)
        place = url_of(path) or (None if str(path) in spooled else str(path.absolute()))
        if place is not None and place.startswith(_OF_A_PROCESS):
            place = None
        described.append({"path": str(path), "place": place, "bytes": size, "sha256": sha256})
    return described


def check_content(sources: Sequence[Source]) -> None:
    """See that each input holds records, and one that is DNA, or raise an InputError."""
    for source in sources:
        records = read_sources([source], ReadLog(is_silent=True))
        found = {screen_record(record) is Status.NOT_DNA for record in records}
        if False not in found:
            problem = "no record is DNA" if found else "holds no records"
            raise InputError(", ".join(map(shown_name, source.names)), problem)


def sampler(
    sources: Sequence[Source], wanted: int | None, mates: int = 1
) -> Callable[[int], bool] | None:
    """Whether record `i` is of `wanted` evenly spread ones, `mates` together; None: all are."""
    if wanted is None:
        return None
    total = sum(1 for _ in read_sources(sources, ReadLog(is_silent=True)))
    if total <= wanted:
        return None
    pairs, kept = total // mates, max(1, wanted // mates)
    return lambda number: (number // mates + 1) * kept // pairs > number // mates * kept // pairs
