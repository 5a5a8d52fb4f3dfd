"""What `virnucpro predict` leaves: thresholds, viral records, samples, pairs and alignments."""

import gzip
import re
from collections import Counter
from itertools import pairwise

import pytest
from runs_here import contents, dna, facts, fastq, predict_with, write_fasta, write_reads

from virnucpro.reports.tables import CallRow, rounded
from virnucpro.scores.scorer import Scorer
from virnucpro.sequences.fasta import read_fasta

FINAL = ("calls.tsv", "regions.tsv", "viral_regions.bed", "viral_chunks.bed", "viral.gff3")


def rows_of(out):
    return list(CallRow.read(out / "calls.tsv"))


@pytest.fixture
def fasta(tmp_path):
    entries = [(f"c{i} number {i}", dna(i, 90 + 130 * i).lower()) for i in range(8)]
    more = [("c1 again", dna(99, 150)), ("short", "ACG")]
    return write_fasta(tmp_path / "in.fa", *entries, *more)


@pytest.fixture
def middle(predict, fasta, tmp_path):
    predict(fasta, "-o", tmp_path / "first")
    scores = sorted(row.p_virus for row in rows_of(tmp_path / "first") if row.p_virus is not None)
    return scores[len(scores) // 2]


def test_min_score_changes_calls_and_never_scores(predict, fasta, tmp_path, middle):
    plain = rows_of(tmp_path / "first")
    assert {row.call for row in plain} == {"non-virus", None}
    predict(fasta, "-o", tmp_path / "out", "--min-score", middle, code=0)
    rows = rows_of(tmp_path / "out")
    assert [(row.p_virus, row.fdr) for row in rows] == [(row.p_virus, row.fdr) for row in plain]
    assert Counter(row.call for row in rows) == {"virus": 5, "non-virus": 4, None: 1}
    assert all((row.call == "virus") == (row.p_virus >= middle) for row in rows if row.call)
    by_score = sorted((row for row in rows if row.call), key=lambda row: -row.p_virus)
    assert all(a.fdr <= b.fdr for a, b in pairwise(by_score))
    assert all(row.fdr == rounded(row.fdr) for row in by_score)
    about = facts(tmp_path / "out")
    assert about["calling"]["min_score"] == middle
    assert (about["sample_summary"][0]["virus"], about["sample_summary"][0]["sure"]) == (5, 0)
    assert "max_fdr" in about["advice"]
    assert about["schema"]["calls.tsv"] == 2
    predict(fasta, "-o", tmp_path / "fdr", "--min-score", middle, "--max-fdr", "0.5")
    calls = Counter(row.call for row in rows_of(tmp_path / "fdr"))
    assert calls == {"uncertain": 5, "non-virus": 4, None: 1}  # all of them score low
    assert facts(tmp_path / "fdr").get("advice") is None  # nothing is left to take back


def test_viral_fasta_holds_the_called_records_as_given(predict, fasta, tmp_path, middle):
    out = tmp_path / "out"
    predict(fasta, "-o", out, "--min-score", middle)
    viral = [row.seq_id for row in rows_of(out) if row.call == "virus"]
    given = list(read_fasta(fasta))
    given[8] = ("c1__2 c1 again", given[8][1])  # the tables call it so
    written = list(read_fasta(out / "viral.fasta"))
    assert [header.split()[0] for header, _ in written] == viral
    assert written == [entry for entry in given if entry[0].split()[0] in viral]
    predict(fasta, "-o", tmp_path / "all", "--min-score", "0")
    assert list(read_fasta(tmp_path / "all" / "viral.fasta")) == given[:-1]
    plain = (out / "viral.fasta").read_bytes()
    predict(fasta, "-o", out, "--min-score", middle, "--gzip-fasta", "--resume", code=0)
    assert gzip.decompress((out / "viral.fasta.gz").read_bytes()) == plain


def test_other_thresholds_redo_the_final_tables_only(predict, fasta, tmp_path, middle, monkeypatch):
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "first"
    predict(fasta, "-o", undisturbed, "--min-score", middle)

    def never(self, unit):
        raise AssertionError("scored again")

    monkeypatch.setattr(Scorer, "prepare", never)
    predict(fasta, "-o", out, "--min-score", middle, "--resume", code=0)
    for name in (*FINAL, "viral.fasta", "chunks.tsv"):
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes()
    assert facts(out)["stages"]["tables"]["records"] > 0
    (out / "calls.tsv").unlink()
    predict(fasta, "-o", out, "--min-score", middle, "--resume", code=0)
    assert (out / "calls.tsv").read_bytes() == (undisturbed / "calls.tsv").read_bytes()


def test_pairs_become_one_sample_with_two_rows_a_pair(predict, tmp_path):
    one, two = tmp_path / "gut_R1.fastq", tmp_path / "gut_R2.fastq.gz"
    one.write_text(fastq("a/1", dna(1, 150)) + fastq("b/1", dna(2, 150)))
    mates = fastq("a/2", dna(3, 150)) + fastq("b/2", dna(4, 150))
    two.write_bytes(gzip.compress(mates.encode()))
    out = tmp_path / "out"
    said = predict(one, two, "--paired", "-o", out, "--min-score", "0", code=0).output
    assert "2 pairs: 2 virus" in said
    assert [(row.seq_id, row.sample) for row in rows_of(out)] == [
        ("a/1", "gut"), ("a/2", "gut"), ("b/1", "gut"), ("b/2", "gut"),
    ]  # fmt: skip
    assert [header for header, _ in read_fasta(out / "viral.fasta")] == ["a/1", "a/2", "b/1", "b/2"]
    a, b, *_ = rows_of(out)
    assert (a.p_virus, a.call, a.fdr, a.p_sample) == (b.p_virus, b.call, b.fdr, b.p_sample)
    assert a.p_record != b.p_record
    turns = zip(*(pair.split("\n@") for pair in (one.read_text()[1:], mates[1:])), strict=True)
    both = tmp_path / "gut.fastq"
    both.write_text("\n".join(f"@{mate.strip()}" for turn in turns for mate in turn))
    predict(both, "--interleaved", "-o", tmp_path / "both", "--min-score", "0", code=0)
    for name in ("calls.tsv", "chunks.tsv", "viral.fasta"):
        assert (tmp_path / "both" / name).read_bytes() == (out / name).read_bytes()
    predict(both, both, "--interleaved", "--paired", "-o", tmp_path / "not", code=2)
    for name, letters in (("c/1", 150), ("c/1 d/2", 150)):
        text = "".join(fastq(word, dna(5, letters)) for word in name.split())
        both.write_text(text)
        predict(both, "--interleaved", "-o", tmp_path / name[-1], code=3)
    predict(one, "--paired", "-o", tmp_path / "odd", code=2)
    one.write_text(fastq("a/1", dna(1, 150)))
    predict(one, two, "--paired", "-o", tmp_path / "short", code=3)


@pytest.mark.parametrize("kind", ["bam", "cram"])
def test_reads_of_alignments_are_scored_on_their_own_strand(predict, tmp_path, kind):
    pysam = pytest.importorskip("pysam")
    contig, path, reference = dna(5, 1000), tmp_path / f"reads.{kind}", tmp_path / "ref.fa"
    reference.write_text(f">chr\n{contig}\n")
    pysam.faidx(str(reference))
    given = reference if kind == "cram" else None
    flags = (("m", 16), ("m", 256), ("m", 2048), ("p", 77), ("p", 141), ("u", 4))
    write_reads(path, *((name, flag, contig[10:210]) for name, flag in flags), reference=given)
    out, flags = tmp_path / "out", ["--reference", reference] if given else []
    predict(path, *flags, "-o", out, "--min-score", "0", code=0)
    assert [row.seq_id for row in rows_of(out)] == ["m", "p/1", "p/2", "u"]
    turned = contig[10:210].translate(str.maketrans("ACGT", "TGCA"))[::-1]
    assert dict(read_fasta(out / "viral.fasta"))["m"] == turned
    if kind == "cram":
        reference.unlink()
    else:
        path.write_bytes(path.read_bytes()[:300])
    lost = predict(path, "-o", tmp_path / "lost", code=3)
    assert ("--reference" if kind == "cram" else "reads.bam") in lost.output


def test_a_finished_run_of_several_files_stays_when_some_of_them_are_asked_for(
    predict, fasta, tmp_path
):
    other, out = write_fasta(tmp_path / "other.fa", ("o", 7)), tmp_path / "two"
    predict(fasta, other, "-o", out, code=0)
    before = contents(out)
    for some in ([fasta], [other], [fasta, other, fasta]):
        result = predict(*some, "-o", out, "--resume", code=2)
        assert "choose another --output-dir" in result.output
    result = predict(fasta, other, "-o", out, "--resume", code=0)
    assert "Already complete" in result.output
    assert contents(out) == before
    moved = other.rename(other.with_name("moved.fa"))
    predict(fasta, moved, "-o", out, "--resume", code=0)


def test_checkv_takes_the_fasta_unchanged(tiny_home, tmp_path):
    """CheckV asks for ids up to the first blank that occur once, and letters behind each."""
    texts = ("a x", 1), ("a x", 2), ("", 3), ("b\ty", "ACGT-n" * 90)
    files = [write_fasta(tmp_path / folder / "c.fa", *texts) for folder in ("one", "two")]
    predict_with(tiny_home, *files, "--min-score", "0", "-o", tmp_path / "out", code=0)
    records = (tmp_path / "out" / "viral.fasta").read_text().split(">")[1:]
    ids = [record.split()[0] for record in records]
    assert len(ids) >= 6 and len({*ids}) == len(ids)
    for record in records:
        header, _, letters = record.partition("\n")
        assert header[:1].strip() and re.fullmatch(r"[ACGTNacgtn\n]+", letters)
