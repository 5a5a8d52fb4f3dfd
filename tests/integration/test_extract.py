"""Records of a call come back out of the files they came from, as they were, mates together."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from runs_here import dna, predict_with, rows_of, run, write_reads

COUNT = 12


def fastq(number, ending="", seed=0):
    letters = dna(seed + number, 300 - number)
    return f"@r{number}{ending} text\xe9\n{letters}\n+\n{'I' * len(letters)}\n"


def fasta(number):
    letters = dna(number, 300)
    return f">r{number}\ttext\n{letters[:70]}\n\n{letters[70:]}-\n"


MATES = [lambda i: fastq(i, "/1"), lambda i: fastq(i, "/2", 50)]
KINDS = {"fastq": [fastq], "fasta": [fasta], "pairs": MATES, "interleaved": MATES}
FLAGS = {"pairs": ["--paired"], "interleaved": ["--interleaved"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_home):
    """`made(kind)`: files of an input, their records as bytes, the output directory, the calls."""
    folder, done = tmp_path_factory.mktemp("extract"), {}

    def make(kind):
        if kind in done:
            return done[kind]
        records = [[one(i).encode("latin-1") for i in range(COUNT)] for one in KINDS[kind]]
        texts = [[b"".join(both) for both in zip(*records, strict=True)]]
        texts = records if kind == "pairs" else texts
        files = [folder / f"{kind}_{n}.gz" for n in range(len(texts))]
        for path, own in zip(files, texts, strict=True):
            path.write_bytes(gzip.compress(b"\n" + b"".join(own)))
        out, other = folder / kind, [folder / "other.fa", folder / "other_2.fa"][: len(files)]
        for path in other:
            path.write_text(f">r0\n{dna(99)}\n" * 2)
        words = [*other, *files, *FLAGS.get(kind, []), "-o", out]
        predict_with(tiny_home, *words, "--min-score", "0", code=0)
        scores = sorted(float(row["p_virus"]) for row in rows_of(out))
        words += ["--min-score", scores[len(scores) // 2], "--resume"]
        predict_with(tiny_home, *words, code=0)
        calls = [row["call"] for row in rows_of(out) if row["sample"] != "other"]
        assert 1 < calls.count("virus") < len(calls) - 1
        done[kind] = files, records, out, calls
        return done[kind]

    return make


def taken(records, calls, wanted=("virus",)):
    width = len(records)
    fragments = [calls[i : i + width] for i in range(0, len(calls), width)]
    keep = [bool(set(wanted) & set(calls)) for calls in fragments]
    return [[r for r, is_kept in zip(own, keep, strict=True) if is_kept] for own in records]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_records_come_back_as_they_are_in_the_file(made, tmp_path, kind, packed):
    files, records, out, calls = made(kind)
    moved = [shutil.copy(path, tmp_path / f"moved{i}") for i, path in enumerate(files)]
    target = tmp_path / ("out.gz" if packed else "out")
    for wanted in (["virus"], ["uncertain", "non-virus"]):
        options = [word for call in wanted for word in ("--call", call)]
        said = run("extract", out, *moved, *options, "-o", target, "--force", code=0).output
        data = target.read_bytes()
        found = taken(records, calls, wanted)
        in_turn = [b"".join(fragment) for fragment in zip(*found, strict=True)]
        assert (gzip.decompress(data) if packed else data) == b"".join(in_turn)
        assert f"{sum(map(len, found))} of {COUNT * len(records)} records" in said
        assert re.search(r"\(thresholds: min_score 0\.\d+\)", said)


@pytest.mark.parametrize("kind", FLAGS)
def test_mates_go_to_a_file_each_and_one_file_alone_keeps_the_pairs(made, tmp_path, kind):
    files, records, out, calls = made(kind)
    both, alone = [tmp_path / "1.fq", tmp_path / "2.fq"], tmp_path / "alone.fq"
    run("extract", out, *files, "-o", both[0], "-o", both[1], code=0)
    found = [b"".join(own) for own in taken(records, calls)]
    assert [path.read_bytes() for path in both] == found
    if kind == "pairs":
        run("extract", out, files[1], "-o", alone, code=0)
        assert alone.read_bytes() == found[1]


def test_standard_output_holds_records_alone(made):
    [file], records, out, calls = made("fastq")
    command = [sys.executable, "-m", "virnucpro", "-v", "extract", str(out), str(file)]
    env = {**os.environ, "VIRNUCPRO_NO_SUCH": "1"}  # which is warned of
    done = subprocess.run(command, capture_output=True, check=True, env=env)
    assert done.stdout == b"".join(taken(records, calls)[0]) and b"NO_SUCH" in done.stderr


def test_reads_of_a_bam_come_with_their_mates(tiny_home, tmp_path):
    pysam = pytest.importorskip("pysam")
    path, out, target = tmp_path / "in.bam", tmp_path / "out", tmp_path / "viral.bam"
    pairs = COUNT // 2
    reads = [(f"r{i}", 69, dna(i)) for i in range(pairs)]  # then second mates, each of them twice
    for i in range(pairs):
        reads += [(f"r{i}", flag, dna(pairs + i)) for flag in (133, 256 + 128 + 1)]
    write_reads(path, *reads)
    predict_with(tiny_home, path, "--min-score", "0", "-o", out, code=0)
    scores = [float(row["p_virus"]) for row in rows_of(out)]
    limit = sorted(scores)[-3]
    predict_with(tiny_home, path, "--min-score", limit, "-o", out, "--resume", code=0)
    called = {f"r{i % pairs}" for i, row in enumerate(rows_of(out)) if row["call"] == "virus"}
    assert 0 < len(called) < pairs
    run("extract", out, path, "-o", target, code=0)
    with pysam.AlignmentFile(str(target), check_sq=False) as file:
        found = [read.get_tag("XX") for read in file.fetch(until_eof=True)]
    assert found == [i for i, (name, flag, _) in enumerate(reads) if flag < 256 and name in called]


def test_what_does_not_fit_is_refused_and_nothing_written(made, tmp_path):
    files, _, out, _ = made("pairs")
    target, copy = tmp_path / "out.fq", tmp_path / "copy"

    def refused(code, text, *words, folder=out):
        said = run("extract", folder, *words, code=code).output
        assert text in " ".join(said.split())
        assert not target.exists()

    other = tmp_path / "other.fq"
    other.write_text(fastq(1))
    refused(3, f"{other}: is no input of the run", other, "-o", target)
    refused(2, "in their order", files[1], files[0], "-o", target)
    refused(2, "one for each mate", files[0], "-o", target, "-o", tmp_path / "more.fq")
    refused(2, "exists; --force", files[0], "-o", other)
    refused(2, "is an input", files[0], "-o", files[0], "--force")
    shutil.copytree(out, copy)
    (copy / "calls.tsv").write_text((out / "calls.tsv").read_text() + "x\n")
    refused(1, "not as the run left it", files[0], "-o", target, folder=copy)
    about = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(about | {"status": "running"}))
    refused(2, "did not end", files[0], "-o", target, folder=copy)
