"""The inputs of a run: which files make a sample, and their records in order.

Read twice: to score the records, and to write out those that are called viral.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virnucpro.core.errors import InputError, UsageError
from virnucpro.core.records import Record
from virnucpro.sequences.alignments import alignment_format, read_alignments
from virnucpro.sequences.fasta import ReadLog, read_pairs, read_records, sample_name
from virnucpro.sequences.ids import IdRegistry
from virnucpro.sequences.unpack import STDIN

logger = logging.getLogger("virnucpro.pipeline")

_FIRST_MATE = re.compile(r"[._-]R?1(_001)?$")
_NOT_PRINTED = re.compile(r"[\x00-\x1f\x7f]")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_FOLDER = 80
_MATE_ENDINGS = ("/1", "/2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One sample: a file, or two files of mates.

    Attributes:
        sample: its name in tables.
        folder: the same as a plain folder name, unique within the run.
        names: the inputs as the user gave them.
        paths: where they lie; standard input has been copied to a file.
        reference: FASTA for CRAM files that need one.
    """

    sample: str
    folder: str
    names: tuple[str, ...]
    paths: tuple[Path, ...]
    reference: Path | None = None


def plan_sources(
    inputs: Sequence[Path], spooled: Mapping[str, Path], paired: bool, reference: Path | None = None
) -> tuple[Source, ...]:
    """Group inputs into samples, in argument order; a file that is given twice is told.

    Args:
        inputs: as given; `-` is standard input.
        spooled: where the copy of an input lies that can be read only once.
        paired: take two consecutive inputs for files of mates.
        reference: FASTA for CRAM files that need one.

    Raises:
        UsageError: an odd number of inputs to pair, or standard input twice.
    """
    check_grouping(inputs, paired)
    _tell_repeats(inputs)
    width = 2 if paired else 1
    groups = [tuple(inputs[i : i + width]) for i in range(0, len(inputs), width)]
    samples = sample_names(inputs, paired)
    return tuple(
        Source(
            sample=sample,
            folder=folder,
            names=tuple(map(str, group)),
            paths=tuple(spooled.get(str(path), path) for path in group),
            reference=reference,
        )
        for group, sample, folder in zip(groups, samples, folder_names(samples), strict=True)
    )


def check_grouping(inputs: Sequence[Path], paired: bool) -> None:
    """See that inputs can be grouped into samples, before any is read.

    Raises:
        UsageError: an odd number of inputs to pair, or standard input twice.
    """
    if sum(str(path) == STDIN for path in inputs) > 1:
        raise UsageError("standard input can be read once: give '-' once")
    if paired and len(inputs) % 2:
        raise UsageError(f"--paired takes inputs two by two, got {len(inputs)}")


def sample_names(inputs: Sequence[Path], paired: bool = False) -> list[str]:
    """One name a sample, no two alike: the stem of its first input.

    Inputs of one stem that lie in several folders are called by their folders, as assemblers
    name all their files alike. Names that are alike even so get a number.

    >>> sample_names([Path("gut/contigs.fa"), Path("soil/contigs.fa"), Path("y.fq.gz")])
    ['gut', 'soil', 'y']
    >>> sample_names([Path("a/gut/x.fa"), Path("b/gut/x.fa"), Path("gut.fa")])
    ['gut', 'gut__2', 'gut__3']
    >>> sample_names([Path("gut_R1.fq"), Path("gut_R2.fq")], paired=True)
    ['gut']
    """
    stems, folders = [], []
    for path in inputs[:: 2 if paired else 1]:
        stem = sample_name(path)
        stem = _FIRST_MATE.sub("", stem) or stem if paired else stem
        stems.append(_NOT_PRINTED.sub("_", stem))
        # a folder is called as the user calls it, so that no link is followed
        whole = os.path.abspath(path)  # noqa: PTH100
        folders.append(Path(STDIN if str(path) == STDIN else whole).parent)
    folders_of: defaultdict[str, set[Path]] = defaultdict(set)
    for stem, folder in zip(stems, folders, strict=True):
        folders_of[stem].add(folder)
    names = IdRegistry()
    return [
        names.unique(
            _NOT_PRINTED.sub("_", folder.name)
            if len(folders_of[stem]) > 1 and folder.name
            else stem
        )
        for stem, folder in zip(stems, folders, strict=True)
    ]


def _tell_repeats(inputs: Sequence[Path]) -> None:
    """Warn of each file that is given again, under whatever name."""
    known: dict[tuple[int, int], Path] = {}
    for path in inputs:
        if not path.exists():
            continue
        found = path.stat()
        place = found.st_dev, found.st_ino
        if place in known:
            logger.warning(
                "%s is given twice (first as %s): its records are called twice", path, known[place]
            )
        known.setdefault(place, path)


def folder_names(samples: Sequence[str]) -> list[str]:
    """Plain folder names for samples: no path, nothing hidden, no two alike in any case.

    >>> folder_names(["../gut 1", "gut-2", "GUT-2", "..."])
    ['gut_1', 'gut-2', 'GUT-2__2', 'sample']
    """
    taken: set[str] = set()
    names = []
    for sample in samples:
        plain = _NOT_PLAIN.sub("_", sample).lstrip("._-")[:_LONGEST_FOLDER] or "sample"
        name, number = plain, 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}__{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def read_sources(sources: Sequence[Source], is_first_time: bool = True) -> Iterator[Record]:
    """The records of all samples, in order. Streams.

    Ids are unique within a sample, and are the same whatever other samples there are. Joint ids
    are unique over all of them: an id that an earlier sample has becomes `{id}__2`.

    Args:
        sources: what to read.
        is_first_time: warn of renamed duplicates.

    Raises:
        InputError: an input is not sequences; names it as the user did.
    """
    joint_ids = IdRegistry() if len(sources) > 1 else None
    for source in sources:
        log = ReadLog(is_silent=not is_first_time)
        try:
            for records in _records(source, log):
                yield from _of_sample(source.sample, records, joint_ids)
        except InputError as error:
            shown = dict(zip(map(str, source.paths), source.names, strict=True))
            name = shown.get(str(error.path), str(error.path))
            name = "standard input" if name == STDIN else name
            raise InputError(name, error.problem, error.line) from error


def _of_sample(
    sample: str, records: tuple[Record, ...], joint_ids: IdRegistry | None
) -> Iterator[Record]:
    """A record, or two mates, with the sample's name and joint ids; mates are told apart alike."""
    if joint_ids is None and records[0].sample == sample:
        yield from records  # nothing to change: a copy would take as long as to parse it
        return
    endings = _MATE_ENDINGS if len(records) == 2 else ("",)
    seq_id = records[0].seq_id.removesuffix(endings[0])
    joint_id = seq_id if joint_ids is None else joint_ids.unique(seq_id, endings)
    for record, ending in zip(records, endings, strict=True):
        yield replace(record, sample=sample, joint_id=joint_id + ending)


def _records(source: Source, log: ReadLog) -> Iterator[tuple[Record, ...]]:
    """Records one by one, mates two by two."""
    if len(source.paths) == 2:
        first, second = source.paths
        for path in source.paths:
            if alignment_format(path):
                raise InputError(path, "holds alignments, which know their mates: drop --paired")
        yield from read_pairs([(first, second)], log)
        return
    (path,) = source.paths
    if alignment_format(path):
        yield from zip(read_alignments(path, log, source.reference))
    else:
        yield from zip(read_records([path], log))
