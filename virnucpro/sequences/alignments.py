"""BAM, CRAM and SAM -> records; needs pysam, which the `[bam]` extra brings."""

import os
import re
import string
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from virnucpro.core.errors import InputError
from virnucpro.core.files import sha256_file
from virnucpro.core.records import Record
from virnucpro.core.text import clipped
from virnucpro.sequences.fasta import first_word
from virnucpro.sequences.read_log import ReadLog

_GZIP, _CRAM, _BAM = b"\x1f\x8b", b"CRAM", b"BAM\x01"
_SAM_HEADER = re.compile(rb"@(HD|SQ|RG|PG|CO)\t")
_SAM_LETTERS = string.ascii_letters.encode() + b"=.*\r\n"
# What htslib takes for an address among the places of REF_PATH, and all behind it.
_ADDRESS = re.compile(r"(^|:)(\||URL=)*(https?|ftp):.*", re.DOTALL)


def alignment_format(path: Path) -> str | None:
    """Whether a file is `BAM`, `CRAM` or `SAM`, by its content; None if none, or unreadable."""
    try:
        with path.open("rb") as file:
            head = file.read(4_096)
        if head.startswith(_GZIP):
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, len(_BAM))
            return "BAM" if unpacked == _BAM else None
    except (OSError, ValueError, zlib.error):
        return None
    if head.startswith(_CRAM):
        return "CRAM"
    return "SAM" if _SAM_HEADER.match(head) else None


def read_alignments(path: Path, log: ReadLog, reference: Path | None = None) -> Iterator[Record]:
    """The reads of a BAM, CRAM or SAM file, mapped or not, each once, in file order. Streams.

    They come as they left the sequencer; mates get `/1` and `/2`. The `reference` of a CRAM file is
    looked for in files only, never on the network. An InputError tells of what cannot be read.
    """
    with open_alignments(path, reference) as file:
        digest = sha256_file(path)
        for read in primary_reads(file):
            name = log.wished_id(first_word(read.query_name or ""))
            if read.is_read1 != read.is_read2:
                name += "/1" if read.is_read1 else "/2"
            sequence = read.get_forward_sequence() or ""
            if "=" in sequence:
                remedy = "'=' for a letter of the reference; undo `samtools calmd -e`"
                raise InputError(path, f"read {name}: {remedy}")
            seq_id, joint_id = log.ids_of(name)
            yield Record(seq_id, name, sequence, log.sample, joint_id=joint_id)
        log.digests[str(path)] = sha256_file(path)
    if log.digests[str(path)] != digest:
        raise InputError(path, "changed while it was read; run again when it is whole")


def primary_reads(file: Any) -> Iterator[Any]:
    """Each read of an open file once, as pysam gives it."""
    reads = file.fetch(until_eof=True)
    return (read for read in reads if not (read.is_secondary or read.is_supplementary))


@contextmanager
def open_alignments(path: Path, reference: Path | None = None) -> Iterator[Any]:
    """A file open in pysam, without an index; what goes wrong there is an InputError."""
    try:
        import pysam
    except ImportError as error:
        problem = "alignments are read with pysam: pip install 'virnucpro[bam]', or give FASTQ"
        raise InputError(path, problem) from error
    if reference is not None and not reference.is_file():
        raise InputError(reference, "is no file; give the FASTA that the CRAM was packed against")
    # htslib reads it as it opens a file, and asks a public server where it is empty
    os.environ["REF_PATH"] = _ADDRESS.sub("", os.environ.get("REF_PATH", "")) or os.devnull
    if (kind := alignment_format(path)) == "SAM":  # htslib would read odd signs as some base
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                letters = b"" if line.startswith(b"@") else b"".join(line.split(b"\t", 10)[9:10])
                if unknown := letters.translate(None, _SAM_LETTERS):
                    problem = f"{unknown[:1]!r} in the sequence of a read; write the file again"
                    raise InputError(path, problem, number)
    verbosity = pysam.set_verbosity(0)  # what htslib would print comes as an exception too
    try:
        with pysam.AlignmentFile(
            str(path), check_sq=False, reference_filename=str(reference) if reference else None
        ) as file:
            yield file
    except (OSError, ValueError, NotImplementedError) as error:  # the last: gzip but not BGZF
        hint = " (a CRAM may need --reference)" if kind == "CRAM" else ""
        raise InputError(path, f"broken or truncated alignments: {clipped(error)}{hint}") from error
    finally:
        pysam.set_verbosity(verbosity)
