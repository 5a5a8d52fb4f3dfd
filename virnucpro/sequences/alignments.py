"""BAM, CRAM and SAM -> records; needs pysam, which the `[bam]` extra brings.

Room 1 (FASTA -> chunks -> ORFs).
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from virnucpro.core.errors import InputError
from virnucpro.core.records import Record
from virnucpro.sequences.fasta import ReadLog, first_word, sample_name, warn_of_duplicates

AlignmentFormat = Literal["BAM", "CRAM", "SAM"]

_GZIP, _CRAM, _BAM = b"\x1f\x8b", b"CRAM", b"BAM\x01"
_SAM_HEADER = re.compile(rb"@(HD|SQ|RG|PG|CO)\t")
_HEAD_BYTES = 4_096
# What htslib takes for an address among the places of REF_PATH, and all behind it.
_ADDRESS = re.compile(r"(^|:)(\||URL=)*(https?|ftp):.*", re.DOTALL)


def alignment_format(path: Path) -> AlignmentFormat | None:
    """Which of the three a file is, by its content; None if it is none of them, or unreadable."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if head.startswith(_GZIP):
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, len(_BAM))
            return "BAM" if unpacked == _BAM else None
    except (OSError, ValueError, zlib.error):
        return None
    if head.startswith(_CRAM):
        return "CRAM"
    return "SAM" if _SAM_HEADER.match(head) else None


def read_alignments(
    path: Path, log: ReadLog | None = None, reference: Path | None = None
) -> Iterator[Record]:
    """The reads of a BAM, CRAM or SAM file, mapped or not, in file order. Streams.

    Each read comes once, as it left the sequencer: secondary and supplementary alignments are
    passed over, reads on the reverse strand are turned back. Mates get `/1` and `/2`.

    A reference is looked for in files only, never on the network.

    Args:
        path: the file; no index is needed.
        log: ids given out so far; one for all inputs of a run.
        reference: FASTA that a CRAM file was packed against, where it needs one.

    Raises:
        InputError: pysam is not installed, the file is broken or truncated, or `reference` is
            no file.
    """
    log = ReadLog() if log is None else log
    pysam = _pysam(path)
    if reference is not None and not reference.is_file():
        raise InputError(reference, "is no file; give the FASTA that the CRAM was packed against")
    # htslib reads it as it opens a file, and asks a public server where it is empty
    os.environ["REF_PATH"] = _ADDRESS.sub("", os.environ.get("REF_PATH", "")) or os.devnull
    sample, duplicates = sample_name(path), log.duplicates
    verbosity = pysam.set_verbosity(0)  # what htslib would print comes as an exception too
    try:
        with pysam.AlignmentFile(
            str(path), check_sq=False, reference_filename=str(reference) if reference else None
        ) as file:
            for read in file.fetch(until_eof=True):
                if not (read.is_secondary or read.is_supplementary):
                    yield _record(read, sample, log)
        warn_of_duplicates(log, log.duplicates - duplicates)
    except (OSError, ValueError, NotImplementedError) as error:  # the last: gzip but not BGZF
        hint = " (a CRAM may need --reference)" if alignment_format(path) == "CRAM" else ""
        raise InputError(path, f"broken or truncated alignments: {error}{hint}") from error
    finally:
        pysam.set_verbosity(verbosity)


def _record(read: Any, sample: str, log: ReadLog) -> Record:
    name = first_word(read.query_name or "", log)
    if read.is_read1 != read.is_read2:
        name += "/1" if read.is_read1 else "/2"
    seq_id = log.ids.unique(name)
    log.duplicates += seq_id != name
    return Record(seq_id, name, read.get_forward_sequence() or "", sample)


def _pysam(path: Path) -> ModuleType:
    try:
        import pysam
    except ImportError as error:
        problem = "alignments are read with pysam: pip install 'virnucpro[bam]', or give FASTQ"
        raise InputError(path, problem) from error
    module: ModuleType = pysam
    return module
