"""What is read is read right, or told: no record is lost, no letter is guessed."""

import bz2
import gzip
import hashlib
import json
import lzma
import random
import re
from pathlib import Path

import pytest
import zstandard
from runs_here import dna, fastq, peak_of, predict_with, rows_of, run, write_reads

from virnucpro.core.errors import InputError
from virnucpro.pipeline.input_pass import Rules, Shard, input_pass
from virnucpro.sequences.alignments import read_alignments
from virnucpro.sequences.fasta import read_records
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.sequences.read_log import ReadLog

CASES = Path(__file__).resolve().parents[1] / "data" / "cases"
PACKERS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.compress,
}
A, B, C = (dna(seed) for seed in (1, 2, 3))
ALL = ("--min-score", "0")


@pytest.fixture
def predict(tiny_home):
    """`predict(*words)` calls everything viral; gives what was said."""

    def call(*words, code=0, **more):
        done = predict_with(tiny_home, *ALL, *words, code=code, **more)
        return " ".join(done.output.split())

    return call


def validate(path, code):
    return " ".join(run("utils", "validate", path, code=code).output.split())


def results_in(out):
    final = re.compile(r"calls|regions|viral|chunks\.tsv|report|prediction_results|mqc")
    return [path.name for path in out.rglob("*") if path.is_file() and final.match(path.name)]


@pytest.mark.parametrize("kind", ["plain", "packed", "gzip", "several inputs", "standard input"])
def test_a_glued_record_ends_the_run_and_hides_no_later_one(predict, put, tmp_path, kind):
    data = (CASES / "glued.fa").read_bytes()
    bad = put(gzip.compress(data) if kind == "gzip" else data)
    inputs = {"several inputs": [put(FASTA, "good.fa"), bad], "standard input": ["-"]}
    flags = ["--parallel"] if kind == "packed" else []
    said = predict(*inputs.get(kind, [bad]), "-o", tmp_path / "out", *flags, stdin=data, code=3)
    name = "standard input" if kind == "standard input" else str(bad)
    assert f"{name}, line 4: '>' inside a line" in said
    assert results_in(tmp_path / "out") == []


def test_every_record_of_files_joined_well_is_called(predict, tmp_path):
    predict(CASES / "glued_ok.fa", "-o", tmp_path / "out")
    assert {row["status"] for row in rows_of(tmp_path / "out")} == {"called"}


LONGEST = OrfPolicy("longest")
ODD_IDS = ["a\x1cb", "b\x85", "c\u2028d", "e\xa0f", "g>h", "@i", "+", ";j", "#k", "l\x1e"]


def spaced(sequence):
    return "\n".join(
        f"{i + 1:>9} " + " ".join(sequence[i : i + 60][j : j + 10] for j in range(0, 60, 10))
        for i in range(0, len(sequence), 60)
    )


@pytest.mark.parametrize(
    "written",
    [
        A.lower(),
        A.replace("T", "U"),
        f"{A[:100]}\r\n{A[100:]}\r\n",
        f"{A[:100]}\r{A[100:]}",
        f"{A[:100]}  \t\n{A[100:]}\v\f",
        f"{A[:77]}--..*{A[77:]}*",
        spaced(A),
        f"\n{A[:10]}\n\n \n{A[10:]}",
    ],
    ids=["lower", "rna", "crlf", "cr", "blanks", "gaps", "numbers", "blank-lines"],
)
def test_what_is_known_changes_no_call(predict, put, tmp_path, written):
    path = put(f">before\n{B}\n>a\n{written}\n>behind\n{C}\n")
    plain = put(f">before\n{B}\n>a\n{A}\n>behind\n{C}\n", "plain.fa")
    for one in (path, plain):
        predict(one, "-o", tmp_path / one.stem)
    mine, theirs = (rows_of(tmp_path / name) for name in ("in", "plain"))
    assert [{**row, "sample": "plain"} for row in mine] == theirs


def test_digits_and_blanks_are_left_out_counted_and_told_once(predict, tmp_path):
    path, out = CASES / "A_gblike.fa", tmp_path / "out"
    said = predict(path, "-o", out, "--sample-n", "9")
    body = "".join(line for line in path.read_text().split("\n") if not line.startswith(">"))
    letters, digits = (sum(map(is_one, body)) for is_one in (str.isalpha, str.isdigit))
    blanks = len(body) - letters - digits
    assert said.count("were left out") == 1 and f"{digits} digits and {blanks} blanks" in said
    assert sum(int(row["length"]) for row in rows_of(out)) == letters
    counts = json.loads((out / "run.json").read_text())["stages"]["scoring"]
    assert (counts["digits"], counts["blanks"]) == (digits, blanks)
    assert f"{digits} digits" in validate(path, 0)


FASTA, FASTQ = f">a\n{A}\n>b\n{B}\n", fastq("a", A) + fastq("b", B)
REFUSED = {
    "C2_cat_noeol": ((CASES / "C2_cat_noeol.fa").read_bytes(), 85, "'>' inside a line"),
    "H_bom_cat": ((CASES / "H_bom_cat.fa").read_bytes(), 86, "byte order mark"),
    "C_semiin": ((CASES / "C_semiin.fa").read_bytes(), 2, "comments"),
    "C_hashmid": ((CASES / "C_hashmid.fa").read_bytes(), 2, "comments"),
    "C2_fa_then_fq": ((CASES / "C2_fa_then_fq.fa").read_bytes(), 187, "FASTQ"),
    "fs": ((CASES / "fs.fa").read_bytes(), 2, "0x1c"),
    "two marks": (f"\ufeff\ufeff{FASTA}", 1, "byte order mark"),
    "mark in fastq": (f"{FASTQ}\ufeff{FASTQ}", 9, "byte order mark"),
    "blank before a header": (f"{FASTA} >c\n{C}\n", 5, "'>'"),
    "plus": (f"{FASTA}+\nIIII\n", 5, "FASTQ"),
    "digits": (f">a\n{A}\n>q\n40 40 38 2\n40 40\n", 3, "11 digits and 0 letters"),
    "slashes": (f">a\n{A}\n//\n", 3, "'/' in a sequence: a record of GenBank or EMBL?"),
    "no-break space": (f">a\n{A}\xa0{A}\n", 2, "0xc2"),
    "letter outside ASCII": (f">a\n{A}é\n", 2, "0xc3"),
    "nul": (f">a\n{A}\0\n", 2, "NUL"),
    "sign in fastq": (fastq("a", A[:9] + ">" + A[10:]) + FASTQ, 2, "'>'"),
    "control in fastq": (fastq("a", A[:9] + "\x1d" + A[10:]) + FASTQ, 2, "0x1d"),
    "fasta after fastq": (FASTQ + FASTA, 9, "FASTA"),
    "fastq glued": (FASTQ[:-1] + FASTQ, 8, "qualities; copy the file again; were files joined?"),
    "other name": (FASTQ.replace("+", "+a"), 7, "name after '+'"),
    "blank line in fastq": (f"{FASTQ}\n{FASTQ}", 10, "blank line"),
    "plain after gzip": (gzip.compress(FASTA.encode()) + FASTA.encode(), None, "each by itself"),
    "gzip after plain": (
        FASTA.encode() + gzip.compress(FASTA.encode(), mtime=0), 5, "give each file by itself",
    ),
    "GFA": (f"{FASTA}S\t7\t{C}\n", 5, "'S' begins a line of another format"),
    "table": (f"{FASTA}c \t {C}\n{C}", 5, "'c' begins"),
    "row of SAM": (f"{FASTA}c\t4\t*\t0\t0\t*\t*\t0\t0\t{C}\t*\n", 5, "'c' begins"),
    "GenBank": (f"{FASTA}LOCUS       X 700 bp DNA\nORIGIN\n  1 {C}", 5, "'LOCUS' begins"),
    "EMBL": (f"{FASTA}ID   X  SV 1  linear\nSQ   Sequence 60 BP;\n", 5, "'ID' begins"),
    "quality and header joined": (f"{FASTQ[:-1]}{FASTA}", 8, "were files joined?"),
    "row behind many lines": (f">a\n{f'{A} {A}' * 2_000}\n" + f"{A}\nc\t{C}\n", 4, "'c' begins"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_sequence_holds_ends_the_run_with_file_and_line(predict, put, tmp_path, name):
    data, line, problem = REFUSED[name]
    path = put(data)
    where = f"{path}, line {line}: " if line else f"{path}, line "
    said = predict(path, "-o", tmp_path / "out", code=3)
    assert where in said and problem in said
    assert results_in(tmp_path / "out") == []
    assert said[said.index(where) :] in validate(path, 3)


@pytest.mark.parametrize("where", ["a file", "standard input"])
def test_a_mark_inside_an_id_is_told_once_with_its_place(predict, put, tmp_path, where):
    text = f">a b>c\n{A}\n>last>b x\n{B}\n> >c\n{C}\n"
    path = put(text)
    name = path if where == "a file" else "standard input"
    said = predict("-" if name != path else path, "-o", tmp_path / "out", stdin=text)
    ids = [row["id"] for row in rows_of(tmp_path / "out")]
    assert ids == ["a", "last>b", ">c"]
    told = "2 records have '>' in their id: were files joined without a line end, or a header "
    assert told + f"written twice? First: {name}, line 3: record last>b" in said
    assert f"written twice? First: {path}, line 3" in validate(path, 0)


@pytest.mark.parametrize("packer", PACKERS)
def test_whole_streams_joined_are_one_file_and_zeros_may_follow(put, packer):
    parts = [PACKERS[packer](text.encode()) for text in (FASTA[:100], FASTA[100:])]
    joined = b"".join(parts) + bytes(0 if packer == "plain" else 512)
    assert [record.sequence for record in read_records([put(joined)])] == [A, B]


@pytest.fixture
def bam(tmp_path):
    """`bam(reads)`: a file of (name, flag, letters)."""
    return lambda *reads, path=tmp_path / "in.bam": write_reads(path, *reads)


def test_a_read_of_the_reverse_strand_is_complemented_in_every_letter(bam):
    [forward, reverse] = read_alignments(
        bam(("f", 0, "AACGRYKMBVDHSWN"), ("r", 16, "AACGRYKMBVDHSWN")), ReadLog()
    )
    assert forward.sequence == "AACGRYKMBVDHSWN"
    assert reverse.sequence == "NWSDHBVKMRYCGTT"


def test_letters_of_a_reference_are_not_guessed(bam, predict, tmp_path):
    path = bam(("a", 4, A), ("b", 4, "ACG=" * 40))
    said = predict(path, "-o", tmp_path / "out", code=3)
    assert "read b: '='" in said
    assert "read b: '='" in validate(path, 3)


@pytest.mark.parametrize("letters", [A[:-1] + "1", A[:-1] + ">", A[:-1] + "#"])
def test_signs_in_the_text_of_sam_are_not_read_as_bases(put, letters):
    pytest.importorskip("pysam")
    path = put(f"@HD\tVN:1.6\n@SQ\tSN:r\tLN:9\na\t4\t*\t0\t0\t*\t*\t0\t0\t{letters}\t*\n", "in.sam")
    with pytest.raises(InputError, match="in the sequence of a read") as caught:
        list(read_alignments(path, ReadLog()))
    assert caught.value.line == 3


RECORD_NT = 5_000_000


def statuses_of(path):
    events = input_pass(read_records([path]), Rules(500, LONGEST), 1_000)
    return [row.status for event in events if isinstance(event, Shard) for row in event.records]


@pytest.mark.parametrize("letters", ["A", "acgt", "1AA"])
def test_one_long_record_takes_at_most_six_bytes_a_letter(put, letters):
    text = "".join(random.Random(4).choices(letters, k=RECORD_NT))
    path = put(f">long\n{text}\n>short\n{A}")
    assert peak_of(lambda: statuses_of(path))[1] < 6 * RECORD_NT


def test_fifty_million_n_in_a_small_file_take_no_more():
    statuses, peak = peak_of(lambda: statuses_of(CASES / "n50.fa.gz"))
    assert statuses == ["ambiguous"]
    assert peak < 6 * 50_000_000


def change_at_opening(monkeypatch, path, number, changed):
    opened, really_open = [0], Path.open

    def opening(self, *arguments, **options):
        if self == path:
            opened[0] += 1
            if opened[0] == number:
                with really_open(path, "wb") as file:
                    file.write(changed)
        return really_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", opening)
    return opened


def versions(kind, bam, folder):
    if kind == "bam":
        reads = [("a", 4, A), ("b", 4, B)]
        paths = [bam(*reads, ("c", 4, c), path=folder / f"{c[:9]}.bam") for c in (C, A)]
        return [path.read_bytes() for path in paths]
    entry = fastq if kind == "fastq" else ">{}\n{}\n".format
    texts = [(entry("a", A) + entry("b", B) + entry("c", last)).encode() for last in (C, A)]
    if kind == "trailing":  # nothing that a parser sees
        return [gzip.compress(texts[0], mtime=0) + bytes(count) for count in (512, 513)]
    return [gzip.compress(text, mtime=0) if kind == "gzip" else text for text in texts]


@pytest.mark.parametrize("flags", [(), ("--sample-n", "2")], ids=["all", "sampled"])
@pytest.mark.parametrize("kind", ["fasta", "fastq", "gzip", "trailing", "bam"])
def test_an_input_that_changes_is_noticed_on_every_pass(
    tiny_home, predict, put, tmp_path, monkeypatch, kind, flags, request
):
    bam = request.getfixturevalue("bam") if kind == "bam" else None
    before, changed = versions(kind, bam, tmp_path)
    path, noticed = put(before), 0
    with monkeypatch.context() as patch:
        opened = change_at_opening(patch, path, 0, changed)
        predict(path, "-o", tmp_path / "whole", *flags)
    for number in range(1, opened[0] + 1):
        path.write_bytes(before)
        out = tmp_path / f"out{number}"
        with monkeypatch.context() as patch:
            change_at_opening(patch, path, number, changed)
            done = predict_with(tiny_home, path, "-o", out, *ALL, *flags)
        if done.exit_code == 0:  # changed before the run wrote down what it is
            inputs = json.loads((out / "run.json").read_text())["inputs"]
            assert inputs[0]["sha256"] == hashlib.sha256(changed).hexdigest()
            assert noticed == 0
        else:
            noticed += 1
            assert done.exit_code == 3 and f"{path}: changed" in " ".join(done.output.split())
            assert results_in(out) == []
    assert noticed >= (3 if flags else 2)
    path.write_bytes(before)
    predict(path, "-o", out, "--resume", *flags)
    assert rows_of(out) == rows_of(tmp_path / "whole")


def test_a_blank_before_the_name_goes_and_the_id_comes_first(predict, put, tmp_path):
    text = (CASES / "H_space.fa").read_bytes() + f">\t\v c  d \n{C}\n> \n{A}\n".encode()
    predict(put(text), "-o", tmp_path / "out")
    lines = (tmp_path / "out" / "viral.fasta").read_text().split("\n")
    headers = [line for line in lines if line.startswith(">")]
    assert headers == [">NODE_1", ">NODE_2", ">c  d ", ">record_4"]


HEADERS = [b"pr\xf8ve_1 fra Troms\xf8", "prøve_2 frå Tromsø".encode()]
HEADERS += [b"b\xe9\xff\x80 \xc3", b"plain", *(f"{i}\t{i} x".encode() for i in ODD_IDS)]
SHOWN = ["prøve_1", "prøve_2", "béÿ\x80", "plain", *ODD_IDS]  # ids end at blanks of ASCII only


@pytest.mark.parametrize("kind", ["fasta", "packed", "fastq", "mates"])
def test_header_bytes_pass_through_and_tables_are_utf8(predict, put, tmp_path, kind):
    def text(seed):
        sequences = [dna(seed + i).encode() for i in range(len(HEADERS))]
        form = b">%s\n%s\n" if kind in ("fasta", "packed") else b"@%s\n%s\n+\n" + b"I" * 300 + b"\n"
        return b"".join(form % pair for pair in zip(HEADERS, sequences, strict=True))

    out, ids, expected, inputs = tmp_path / "out", SHOWN, HEADERS, [put(text(0))]
    flags = ["--parallel"] if kind == "packed" else []
    if kind == "mates":
        inputs, flags = [*inputs, put(text(10), "mate.fq")], ["--paired"]
        ids = [f"{name}/{end}" for name in SHOWN for end in (1, 2)]
        each_twice = [header for header in HEADERS for _ in (1, 2)]
        expected = [f"{i} ".encode() + head for i, head in zip(ids, each_twice, strict=True)]
    predict(*inputs, "-o", out, *flags)
    rows = (out / "calls.tsv").read_bytes().decode().split("\n")[1:-1]
    assert [row.split("\t")[0] for row in rows] == ids
    written = (out / "viral.fasta").read_bytes().split(b"\n")
    assert [line[1:] for line in written if line.startswith(b">")] == expected
    for path in out.rglob("*"):
        if path.suffix in (".tsv", ".txt", ".csv", ".json", ".html", ".bed", ".gff3"):
            path.read_bytes().decode("utf-8")


@pytest.mark.parametrize("flags", [(), ("--sample-n", "1")])
def test_bgzip_without_its_end_block_is_a_warning_said_once(predict, put, tmp_path, flags):
    said = predict(CASES / "C_bgzf_noeof.fa.gz", "-o", tmp_path / "out", *flags)
    assert said.count("C_bgzf_noeof.fa.gz: bgzip without its end block") == 1
    end = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
    whole = (CASES / "C_bgzf_noeof.fa.gz").read_bytes() + end
    for path in (put(whole), put(gzip.compress(FASTA.encode()), "plain.gz")):
        assert "end block" not in validate(path, 0)


GENBANK = "LOCUS       X    9 bp    DNA\nORIGIN\n        1 acgtacgta\n//\n"
EMBL = "ID   X; SV 1; linear; DNA; STD; VRL; 9 BP.\nSQ   Sequence 9 BP;\n     acgtacgta 9\n//\n"
GFF = "ctg\tProdigal\tCDS\t1\t99\t.\t+\t0\tID=1\n"
FOREIGN = {
    "gzip in gzip": ((CASES / "C_gzgz.fa.gz").read_bytes(), "gzip inside gzip", "unpack"),
    "zstandard in xz": (
        lzma.compress(zstandard.compress(FASTA.encode())), "zstandard inside xz", "unpack",
    ),
    "zip in gzip": (gzip.compress(b"PK\x03\x04" + bytes(300)), "zip inside gzip", "unpack"),
    "tar in gzip": (gzip.compress(b"a.fa".ljust(257, b"\0") + b"ustar"), "tar archive", "unpack"),
    "wrapped FASTQ": ((CASES / "C_wrapped.fq").read_bytes(), "several lines", "seqtk seq"),
    "GenBank": (GENBANK, "GenBank", "any2fasta"),
    "EMBL": (EMBL, "EMBL", "any2fasta"),
    "GFF": (f"##gff-version 3\n{GFF}", "GFF", "FASTA or FASTQ file"),
    "GFA": ("H\tVN:Z:1.0\nS\t1\tACGT\n", "GFA", "any2fasta"),
    "page": ("<!DOCTYPE html>\n<html>", "HTML", "fetch"),
    "packed SAM": (gzip.compress(b"@HD\tVN:1.6\n"), "SAM", "unpack"),
    "comment first": (f"; about\n{FASTA}", "comment", "remove"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_another_format_is_named_with_the_remedy(predict, put, tmp_path, name):
    data, kind, remedy = FOREIGN[name]
    path = put(data)
    said = predict(path, "-o", tmp_path / "out", code=3)
    assert kind in said
    assert remedy in said
    assert kind in validate(path, 3)
