"""A record has the same call alone and among others, whatever the others hold.

    python fuzz/alone.py --records 100000 --stub --output benchmarks/results/alone_stub.json
    python fuzz/alone.py --records 2000 --output benchmarks/results/alone_mini.json

Records are made up: lengths about every boundary, odd headers, unclear and other letters, gaps,
digits and blanks between them, twins. A batch is predicted by two whole runs, each with the
records in another order, in other files and written in another way, with blocks, units and shards
that end elsewhere; then each record goes through reader and pipeline alone, some of them by a
whole run. Status and length must be what the letters say, counts the same everywhere, p_virus
within 1e-6. Files with a sign that no sequence holds must be refused. Scores are those of the
bundled model, or made up from the letters of each ORF.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import random
import re
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from fuzz.report import write_report  # noqa: E402
from virnucpro.core.errors import InputError  # noqa: E402
from virnucpro.models.store import resolve_model  # noqa: E402
from virnucpro.pipeline import input_pass  # noqa: E402
from virnucpro.pipeline.prediction import run_prediction  # noqa: E402
from virnucpro.pipeline.settings import Compute, Output, PredictionSettings  # noqa: E402
from virnucpro.pipeline.stream import DirectScorer  # noqa: E402
from virnucpro.pipeline.worker_loop import (  # noqa: E402
    Done,
    Executor,
    InProcess,
    Item,
    Job,
    OnRows,
    Outcome,
)
from virnucpro.reports.tables import CallRow  # noqa: E402
from virnucpro.scores.scorer import COLUMNS  # noqa: E402
from virnucpro.sequences import streams  # noqa: E402
from virnucpro.sequences.fasta import read_records  # noqa: E402
from virnucpro.sequences.read_log import ReadLog  # noqa: E402

TOLERANCE = 1e-6
SHORTEST_NT, OTHER_SHARE = 60, 0.1  # as docs/outputs.md says of the statuses
LENGTHS = (0, 1, 59, 60, 61, 150, 299, 300, 301, 499, 500, 501, 600, 601, 1000, 1001, 1400)
OTHERS = "EFILJOPQXZ"
STRETCHES = ("N", "N", "NRYKMSWBDHVU", "TAA", "A", OTHERS)
WORDS = [
    b"NODE_1", b"a", b"a", b"k141|7", b">x", b"@r", b"+", b";c", b"#1", b"=1+1", b"pr\xf8ve",
    "prøve".encode(), b"a\xa0b", "a\u00a0b".encode(), "a\u2028b".encode(), b"a\x1cb", b"a\x85",
    b"a\x1f", b"'q'", b'"q"', b"a,b", b"a_chunk_1", b"a__2", b"record_2", b"\xff\xfe", b"x/1",
]  # fmt: skip
SIGNS = [
    b">", b"@", b"+", b";", b"#", b"=", b"~", b"?", b"/", b"\x1c", b"\xa0", b"\0",
    b"\xef\xbb\xbf",
]  # fmt: skip
REFUSED, REFUSED_RECORDS = 5, 20  # files of a batch that must be refused, and their records


class MadeUpScores:
    """Scores every ORF by its letters alone."""

    def run(self, job: Job, items: Iterable[Item], on_rows: OnRows) -> Iterator[Outcome]:
        """See `Executor`."""
        for key, (dna, protein) in items:
            seeds = [zlib.crc32(d + b" " + p) for d, p in zip(dna, protein, strict=True)]
            virus = np.array(seeds, dtype=np.float64) / 2**32
            scores = np.zeros((len(virus), COLUMNS), dtype=np.float32)
            scores[:, 0], scores[:, 1] = 1 - virus, virus
            yield Done(key, scores, {}, 0)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Made:
    """A record: its header, and the letters that count."""

    header: bytes
    letters: str

    @property
    def status(self) -> str:
        """What the letters say: any 60 clear bases in a row give an ORF under `longest`."""
        others = sum(letter in OTHERS for letter in self.letters.upper())
        if others > OTHER_SHARE * len(self.letters):
            return "not_dna"
        if len(self.letters) < SHORTEST_NT:
            return "too_short"
        is_clear = re.search(f"[ACGTUacgtu]{{{SHORTEST_NT}}}", self.letters)
        return "called" if is_clear else "ambiguous"


def make(draw: random.Random, earlier: Sequence[Made]) -> Made:
    """One record of any kind."""
    header = draw.choice([*WORDS, b"r%d" % draw.randrange(10**6), b""])
    header += draw.choice([b"", b"", b" text", b"\ttext \xe9", b"  ", b"\v>x"])
    if earlier and draw.random() < 0.05:
        return Made(header, draw.choice(earlier).letters)
    length = draw.choice(LENGTHS) + draw.choice([0, draw.randrange(40)])
    if draw.random() < 0.1:
        letters = draw.choices(draw.choice(["N", OTHERS + "ACGT", "ACGTN"]), k=length)
    else:
        letters = draw.choices("ACGT", k=length)
    for _ in range(draw.choice([0, 0, 0, 1, 2, 5]) if length else 0):
        start, size = draw.randrange(length), draw.choice([1, 2, 30, 60, 200, length // 10 + 1])
        stop = min(length, start + size)
        letters[start:stop] = draw.choices(draw.choice(STRETCHES), k=stop - start)
    text = draw.choice([str, str, str.lower, str.swapcase])("".join(letters))
    if draw.random() < 0.1:
        text = "".join(draw.choice([c, c.lower()]) for c in text)
    return Made(header, text)


def written(made: Made, draw: random.Random, is_fastq: bool) -> bytes:
    """A record as text with line feeds: its letters in some layout, with gaps between."""
    text = made.letters
    for _ in range(draw.choice([0, 0, 1, 3])):
        place = draw.randint(0, len(text))
        text = text[:place] + draw.choice("-.*") * draw.randint(1, 70) + text[place:]
    if is_fastq:
        quality = "".join(draw.choices("!+>@IJ#;~", k=len(text)))
        blank = draw.choice(["", "", " ", "\t"])
        return b"@" + made.header + f"\n{text}{blank}\n+\n{quality}{blank}\n".encode()
    if len(made.letters) > 20 and draw.random() < 0.2:
        text = "".join(f"{10 * i:>5} {text[i : i + 60]}" for i in range(0, len(text), 60))
    width = draw.choice([60, 60, 70, 1, 10_000, draw.randint(1, 100)])
    lines = [text[i : i + width] for i in range(0, len(text), width)]
    end = draw.choice(["", "", "", " ", "\t \v", "\f"])
    body = "".join(f"{line}{end}\n" for line in lines) + draw.choice(["", "", "\n", " \n\n"])
    return b">" + draw.choice([b"", b"", b" ", b"\t "]) + made.header + b"\n" + body.encode()


def as_file(records: Sequence[Made], draw: random.Random, path: Path) -> Path:
    """Write records as one file of some kind."""
    is_fastq = draw.random() < 0.3
    data = b"".join(written(made, draw, is_fastq) for made in records)
    if draw.random() < 0.3 and records and (records[-1].letters or not is_fastq):
        data = data.rstrip(b"\n")
    data = data.replace(b"\n", draw.choice([b"\n", b"\n", b"\n", b"\r\n", b"\r"]))
    data = draw.choice([b"", b"", b"\xef\xbb\xbf", b"\n \n"]) + data
    path.write_bytes(draw.choice([bytes, bytes, gzip.compress])(data))
    return path


def spoiled(records: Sequence[Made], draw: random.Random, path: Path) -> Path:
    """Write records as FASTA with a sign in it that no sequence holds."""
    chosen = draw.randrange(len(records))
    sign, parts = draw.choice(SIGNS), []
    for number, made in enumerate(records):
        text = b">" + made.header + b"\n" + made.letters.encode() + b"\n"
        if number == chosen:
            place = len(text) - 1 - draw.randint(0, max(0, len(made.letters) - 1))
            text = text[:place] + sign + text[place:]
            text = text.replace(b"\n>", b"\nA>")  # that would be one more record
        parts.append(text)
    path.write_bytes(b"".join(parts))
    return path


class Predictor:
    """Predictions of files: by whole runs, or through reader and pipeline only.

    Args:
        is_stub: scores are made up.
    """

    def __init__(self, is_stub: bool) -> None:
        self._executor: Executor = MadeUpScores() if is_stub else InProcess("cpu", 1)
        model = resolve_model("mini", None, Path("none"))
        self._direct = DirectScorer(model)
        self._direct.executor = self._executor

    def whole(self, files: Sequence[Path], out: Path, per_unit: int = 2_000) -> list[CallRow]:
        """The rows of calls.tsv."""
        settings = PredictionSettings(
            compute=Compute(device="cpu", threads=1, sequences_per_file=per_unit),
            output=Output(progress=False, report=False),
        )
        run_prediction(files, out, settings, executor=self._executor)
        return list(CallRow.read(out / "calls.tsv"))

    def alone(self, file: Path) -> list[CallRow]:
        """The same without files."""
        return list(self._direct.score(read_records([file], ReadLog(is_silent=True))))


def faults(made: Made, row: CallRow) -> Iterator[str]:
    """Where a row is not what its record says."""
    first = (made.header.split(maxsplit=1) or [b"record_"])[0].decode("utf-8", "surrogateescape")
    word = "".join(chr(ord(c) - 0xDC00) if 0xDC80 <= ord(c) <= 0xDCFF else c for c in first)
    found = (row.length, str(row.status), row.p_virus is not None)
    if found != (len(made.letters), made.status, made.status == "called"):
        yield f"{made}: {found}, not {made.status}"
    if not re.fullmatch(re.escape(word) + r"\d*(__\d+)*", row.seq_id):
        yield f"{made}: id {row.seq_id!r}"


def differences(made: Made, one: CallRow, other: CallRow) -> Iterator[str]:
    """Where two rows of one record are not the same."""
    counts = [(r.length, r.status, r.chunks, r.orfs, r.chunks_scored) for r in (one, other)]
    if counts[0] != counts[1]:
        yield f"{made}: {counts[0]} and {counts[1]}"
    # 0.130615 - 0.130614 is a little more than 1e-6 as a binary number
    if round(abs((one.p_virus or 0) - (other.p_virus or 0)), 12) > TOLERANCE:
        yield f"{made}: p_virus {one.p_virus} and {other.p_virus}"


def batch(
    predictor: Predictor, draw: random.Random, folder: Path, records: list[Made], whole_every: int
) -> Iterator[str]:
    """Predict records twice among others, and each alone; says what is wrong."""
    order = list(range(len(records)))
    among: list[list[CallRow]] = []
    for name in ("first", "second"):
        cuts = sorted(draw.choices(range(len(order) + 1), k=draw.choice([0, 0, 1, 2])))
        parts = [order[a:b] for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
        files = [
            as_file([records[i] for i in part], draw, folder / f"{name}_{number}.fa")
            for number, part in enumerate(parts)
        ]
        streams.BLOCK_BYTES = draw.choice([700, 1 << 12, 1 << 18])
        input_pass.BLOCK_CHUNKS = draw.choice([7, 100, 1_000])
        input_pass.SHARD_RECORDS = draw.choice([90, 50_000])
        rows = predictor.whole(files, folder / name, draw.choice([50, 500, 2_000]))
        if len(rows) != len(order):
            yield f"{len(rows)} rows for {len(order)} records"
            return
        for i, row in zip(order, rows, strict=True):
            yield from faults(records[i], row)
        among.append([row for _, row in sorted(zip(order, rows, strict=True), key=lambda x: x[0])])
        draw.shuffle(order)
    for i, made in enumerate(records):
        file = as_file([made], draw, folder / "alone.fa")
        rows = predictor.alone(file)
        if i % whole_every == 0 and made.status != "not_dna":
            rows += predictor.whole([file], folder / f"alone_{i}")
        for row in rows:
            yield from faults(made, row)
            for known in among:
                yield from differences(made, known[i], row)
    for number in range(REFUSED):
        some = draw.choices(records, k=REFUSED_RECORDS)
        file = spoiled(some, draw, folder / f"bad_{number}.fa")
        try:
            predictor.whole([file], folder / f"bad_{number}")
            yield f"not refused: {file.read_bytes()[:2_000]!r}"
        except InputError:
            if (folder / f"bad_{number}" / "calls.tsv").exists():
                yield "calls.tsv is there although the input was refused"


def campaign(
    predictor: Predictor, records: int, per_run: int, whole_every: int, seed: int = 1
) -> dict[str, Any]:
    """Predict made-up records until there are enough, or something is found; says what came."""
    counts: Counter[str] = Counter()
    found: list[str] = []
    memory = Path("/dev/shm")
    limits = streams.BLOCK_BYTES, input_pass.BLOCK_CHUNKS, input_pass.SHARD_RECORDS
    while counts["records"] < records and not found:
        draw = random.Random(f"{seed} {counts['batches']}")
        made: list[Made] = []
        for _ in range(min(per_run, records - counts["records"])):
            made.append(make(draw, made))
        try:
            with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
                found += batch(predictor, draw, Path(folder), made, whole_every)
        finally:
            streams.BLOCK_BYTES, input_pass.BLOCK_CHUNKS, input_pass.SHARD_RECORDS = limits
        counts.update(batches=1, records=len(made), refused=REFUSED)
        counts.update(f"status_{record.status}" for record in made)
    return {**counts, "findings": len(found), "first_findings": found[:10]}


def main() -> int:
    """Run from the command line; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--per-run", type=int, default=1_000)
    parser.add_argument("--whole-every", type=int, default=100)
    parser.add_argument("--stub", action="store_true", help="scores made up from letters")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    asked = parser.parse_args()
    logging.getLogger("virnucpro").setLevel(logging.ERROR)
    started = time.monotonic(), time.process_time()
    found = campaign(
        Predictor(asked.stub), asked.records, asked.per_run, asked.whole_every, asked.seed
    )
    report = {
        "limit": f"statuses and counts equal, p_virus within {TOLERANCE}",
        "scores": "made up" if asked.stub else "bundled model",
        "seconds": round(time.monotonic() - started[0], 1),
        "processor_seconds": round(time.process_time() - started[1], 1),
        **found,
    }
    write_report("the same call alone and among others", report, asked.output)
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
