"""Predictions in this process on tiny models: through the command, and `run_prediction` itself."""

import csv
import json
import random
import tracemalloc
from pathlib import Path

import pytest
from click.testing import CliRunner

from virnucpro.cli.main import cli
from virnucpro.pipeline.prediction import run_prediction
from virnucpro.pipeline.settings import Compute, ModelChoice, Output, PredictionSettings

TABLES = ("calls.tsv", "chunks.tsv", "in_merged/prediction_results.txt",
          "in_merged/prediction_results_highestscore.csv")  # fmt: skip
TINY = ["-m", "500", "--orf-policy", "longest"]  # every chunk gets an ORF


def dna(seed, length=300):
    return "".join(random.Random(seed).choices("ACGT", k=length))


def write_fasta(path: Path, *records) -> Path:
    """Records are (header, letters), or (header, seed of 300 letters)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = ((head, dna(text) if isinstance(text, int) else text) for head, text in records)
    path.write_text("".join(f">{head}\n{text}\n" for head, text in texts))
    return path


def write_dna(path: Path, lengths) -> Path:
    return write_fasta(path, *((f"r{i}", dna(i, n)) for i, n in enumerate(lengths)))


def peak_of(work):
    """What `work()` gives, and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def fastq(header, letters):
    return f"@{header}\n{letters}\n+\n{'I' * len(letters)}\n"


def write_reads(path: Path, *reads, reference=None) -> Path:
    """BAM or CRAM, as the name says, of reads (name, flag, letters) tagged with their number."""
    pysam = pytest.importorskip("pysam")
    header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": "chr", "LN": 1000}]}
    options = {"reference_filename": str(reference)} if reference else {}
    mode = "wc" if path.suffix == ".cram" else "wb"
    with pysam.AlignmentFile(str(path), mode, header=header, **options) as file:
        for number, (name, flag, letters) in enumerate(reads):
            read = pysam.AlignedSegment(file.header)
            read.query_name, read.flag, read.query_sequence = name, flag, letters
            if not flag & 4:
                place = 0, 10, [(0, len(letters))]
                read.reference_id, read.reference_start, read.cigartuples = place
            read.set_tag("XX", number)
            file.write(read)
    return path


def run(*words, stdin=None, env=None, code=None):
    """The command in this process; only its own exit ends it, with `code` if one is given."""
    done = CliRunner().invoke(cli, list(map(str, words)), input=stdin, env=env)
    assert code in (None, done.exit_code), done.output
    assert isinstance(done.exception, SystemExit | None), done.output + repr(done.exception)
    assert "Traceback" not in done.output
    return done


def predict_with(home, *words, stdin=None, report=False, code=None, **variables):
    """`virnucpro predict` on the models of `home`, on one thread."""
    fixed = ["predict", *TINY, "-t", "1", "--no-progress", *([] if report else ["--no-report"])]
    env = {"VIRNUCPRO_MODEL_DIR": str(home), **variables}
    return run(*fixed, *words, stdin=stdin, env=env, code=code)


def rows_of(out: Path, name="calls.tsv"):
    with (out / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def contents(folder: Path):
    """Every file below, but for the lock: its bytes and when they were written; links as such."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = path.readlink()
        elif path.is_file() and path.name != ".virnucpro.lock":
            found[path] = (path.read_bytes(), path.stat().st_mtime_ns)
    return found


def predict_here(
    home: Path, fasta: Path, out: Path, *, output=None, policy="longest", how=None, **compute
) -> int:
    """Exit code of a run on the CPU with units of 8 ORFs; `output` and `compute` are fields."""
    settings = PredictionSettings(
        model=ModelChoice(model_type="500", home=home, orf_policy=policy),
        compute=Compute(**{"device": "cpu", "threads": 1, "sequences_per_file": 8} | compute),
        output=Output(**{"progress": False, "report": False} | (output or {})),
    )
    return run_prediction([fasta], out, settings, **how or {})


def tables(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in TABLES}


def calls(out: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in rows_of(out)}


def facts(out: Path):
    return json.loads((out / "run.json").read_text())
