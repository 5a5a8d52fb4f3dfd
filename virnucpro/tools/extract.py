"""Records of a call, back out of the files that a run read; found by their number and the hash."""

import gzip
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, cycle, islice
from pathlib import Path
from typing import IO, Any

from virnucpro.core.errors import InputError, OutputError, UsageError
from virnucpro.core.files import atomic_write, sha256_file
from virnucpro.pipeline.inputs import check_inputs
from virnucpro.reports import explain
from virnucpro.reports.tables import CALL_COLUMNS, read_fields
from virnucpro.sequences.alignments import alignment_format, open_alignments, primary_reads
from virnucpro.sequences.streams import BLANKS, STDIN, TextStream, open_unpacked

CALL, SAMPLE = CALL_COLUMNS.index("call"), CALL_COLUMNS.index("sample")
_GZIP_LEVEL = 6
_CHANGED = "changed while it was read; what was written is not whole"


def extract(
    output_dir: Path, files: Sequence[Path], calls: Collection[str], targets: Sequence[Path],
    standard_output: IO[bytes], reference: Path | None = None,
) -> tuple[int, int, str]:  # fmt: skip
    """Write the records of `files`, an input of a finished run or a pair, that have one of `calls`.

    Streams. Of mates both come out where one has the call. Of `targets` there is one, or for pairs
    one for each mate; `-` is `standard_output`. Packed with gzip where the name ends so; reads of
    alignments come as BAM. Returns how many records were written, how many there are, and the
    thresholds that their calls came from.

    Raises:
        UsageError: the run is not finished, or files or targets do not fit it.
        InputError: a file is no input of the run, by its content.
        OutputError: calls.tsv is not as the run left it, or a target cannot be written.
    """
    check_inputs(files)
    for target in filter(Path.exists, targets):
        if any(target.samefile(path) for path in files):
            raise UsageError(f"--output {target} is an input; choose another one")
    run, table = explain.read_run(output_dir), output_dir / "calls.tsv"
    if not table.is_file() or sha256_file(table) != run["outputs"].get("calls.tsv"):
        raise OutputError(f"{table} is not as the run left it; `predict --resume` makes it again")
    (mates, _), is_interleaved = explain.fragment(run), run["parameters"]["inputs"]["interleaved"]
    if len(targets) != 1 and not (len(targets) == 2 == max(len(files), 1 + is_interleaved)):
        raise UsageError("give one --output, or for pairs one for each mate")
    hashes = [sha256_file(path) for path in files]
    known = [one["sha256"] for one in run["inputs"]]
    for path, sha256 in zip(files, hashes, strict=True):
        if sha256 not in known:
            problem = f"is no input of the run in {output_dir}, which knows them by their content"
            raise InputError(path, f"{problem}; give the file that was predicted on")
    place, width = known.index(hashes[0]), 1 if is_interleaved else mates
    if len(files) > 1 and (place % width or hashes != known[place : place + width]):
        raise UsageError("give one input of the run, or the two files of a pair, in their order")
    sample = run["samples"][place // width]
    asked = {name: run["calling"][name] for name in ("preset", "min_score", "max_fdr")}
    limits = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    limits = limits or "the model's own"
    with ExitStack() as stack:
        sinks = [_sink(path, standard_output, stack) for path in targets]
        fields = read_fields(table, CALL_COLUMNS)
        rows = (row[CALL] in calls for row in fields if row[SAMPLE] == sample)
        if alignment_format(files[0]):
            written, total = _extract_alignments(files[0], list(rows), sinks[0], reference)
            return written, total, limits
        readers = [_records(*pair) for pair in zip(files, hashes, strict=True)]
        if is_interleaved:
            readers *= 2  # one iterator twice: its records come in turn
        written = total = 0
        for wanted in zip(*[rows] * mates, strict=True):
            records = [next(reader) for reader in readers]
            total += len(records)
            if any(wanted):
                written += len(records)
                for record, sink in zip(records, cycle(sinks)):
                    sink.write(record)
        for reader in readers:  # to the end, where its hash is looked at
            if next(reader, None) is not None:
                raise InputError(files[0], _CHANGED)
    return written, total, limits


def _sink(path: Path, standard_output: IO[bytes], stack: ExitStack) -> Any:
    """Something to write bytes to; a file comes to be whole, or not at all."""
    if str(path) == STDIN:
        stack.callback(standard_output.flush)
        return standard_output
    file = stack.enter_context(atomic_write(path))
    if path.suffix != ".gz":
        return file
    return stack.enter_context(gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0))


def _records(path: Path, sha256: str) -> Iterator[bytes]:
    """The text of each record of FASTA or FASTQ; line feeds at line ends."""
    with open_unpacked(path) as unpacked:
        stream = TextStream(unpacked)

        def lines_of() -> Iterator[bytes]:
            rest = b""
            for block in stream.blocks():
                *whole, rest = (rest + block).split(b"\n")
                yield from whole
            if rest:
                yield rest

        lines = lines_of()
        if stream.kind == "fastq":
            while (four := [*islice(lines, 4)]) and four[0].strip(BLANKS):
                yield b"".join(line + b"\n" for line in four) + b"\n" * (4 - len(four))
        elif stream.kind:
            text = [next(lines)]
            for line in chain(lines, [b">"]):  # the end comes as if one more record began
                if line.startswith(b">"):
                    yield b"".join(part + b"\n" for part in text)
                    text = []
                text.append(line)
        if unpacked.finish() != sha256:
            raise InputError(path, _CHANGED)


def _extract_alignments(
    path: Path, wanted: Sequence[bool], sink: IO[bytes], reference: Path | None
) -> tuple[int, int]:
    """Write reads, and their mates wherever those lie, as BAM."""
    import pysam

    with open_alignments(path, reference) as file:
        pairs = zip(wanted, primary_reads(file), strict=True)
        names = {read.query_name for is_wanted, read in pairs if is_wanted and read.is_paired}
    written = 0
    with (
        open_alignments(path, reference) as file,
        pysam.AlignmentFile(sink, "wb", template=file) as target,
    ):
        for is_wanted, read in zip(wanted, primary_reads(file), strict=True):
            if is_wanted or (read.is_paired and read.query_name in names):
                try:
                    target.write(read)
                except OSError as error:
                    problem = f"could not be written ({error.strerror or error})"
                    raise OutputError(problem) from error
                written += 1
    return written, len(wanted)
