"""Inputs become samples."""

import sys
from pathlib import Path

import pytest

from virnucpro.core.errors import InputError, UsageError
from virnucpro.pipeline.inputs import folder_names, plan_sources, read_sources, sample_names
from virnucpro.sequences.alignments import alignment_format, read_alignments
from virnucpro.sequences.read_log import ReadLog


def test_folders_never_leave_their_place():
    names = ["../../etc", "/abs", "a/b", ".hidden", "", "..", "x" * 300, "A", "a", "é\n", "-rf"]
    folders = folder_names(names)
    assert len({folder.lower() for folder in folders}) == len(names)
    for folder in folders:
        assert Path(folder).name == folder
        assert folder[0] not in ".-"
        assert len(folder) < 100
        assert folder.isascii()


def test_sample_names_hold_no_tab_or_line_end():
    assert sample_names([Path("a\tb.fa"), Path("a\nb.fa")]) == ["a_b", "a_b__2"]


@pytest.mark.parametrize(
    ("first", "sample"),
    [
        ("gut_R1.fq.gz", "gut"),
        ("gut_1.fastq", "gut"),
        ("gut_S1_L001_R1_001.fastq.gz", "gut_S1_L001"),
        ("gut.fq", "gut"),
        ("_1.fq", "_1"),
    ],
)
def test_a_pair_is_named_without_its_number(first, sample):
    assert sample_names([Path(first), Path("second.fq")], paired=True) == [sample]


def test_ids_belong_to_a_sample_and_errors_name_what_was_given(tmp_path, caplog):
    one, copy = tmp_path / "one.fa", tmp_path / "copy"
    one.write_text(">a\nAC\n")
    copy.write_text(">a\nGT\n>a__2\nTT\n>a\nTT\n>\nTT\n")
    sources = plan_sources([one, Path("-")], {"-": copy}, paired=False)
    assert [(r.seq_id, r.joint_id, r.sample) for r in read_sources(sources)] == [
        ("a", "a", "one"), ("a", "a__2", "stdin"), ("a__2", "a__2__2", "stdin"),
        ("a__3", "a__3", "stdin"), ("record_4", "record_4", "stdin"),
    ]  # fmt: skip
    assert len(caplog.records) == 1
    list(read_sources(sources, ReadLog(is_silent=True)))
    assert len(caplog.records) == 1
    with pytest.raises(UsageError, match="got 1"):
        plan_sources([one], {}, paired=True)
    with pytest.raises(UsageError, match="once"):
        plan_sources([Path("-"), Path("-")], {"-": copy}, paired=False)
    copy.write_text("AC\n")
    with pytest.raises(InputError, match="standard input, line 1"):
        list(read_sources(sources))


def test_alignments_are_told_by_their_content(tmp_path):
    path = tmp_path / "x"
    for content, kind in (
        (b"CRAM\x03", "CRAM"),
        (b"@SQ\tSN:1\tLN:9\n", "SAM"),
        (b"@read 1\nAC\n+\nII\n", None),
        (b">a\nAC\n", None),
        (b"\x1f\x8b broken", None),
        (b"", None),
    ):
        path.write_bytes(content)
        assert alignment_format(path) == kind
    assert alignment_format(tmp_path) is None


def test_without_pysam_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(InputError, match=r"pip install 'virnucpro\[bam\]'"):
        next(read_alignments(tmp_path / "x.bam"))


def test_names_of_reads_with_blanks_are_ids_without(tmp_path, caplog):
    pysam = pytest.importorskip("pysam")
    path = tmp_path / "x.bam"
    with pysam.AlignmentFile(str(path), "wb", header={"HD": {"VN": "1.6"}}) as file:
        for name in ("r 1", "a\tb", "r 2"):
            read = pysam.AlignedSegment(file.header)
            read.query_name, read.flag, read.query_sequence = name, 4, "ACGT"
            file.write(read)
    assert [record.seq_id for record in read_alignments(path)] == ["r", "a", "r__2"]
    assert "1 records had an id that was taken" in caplog.text


def test_reads_of_sam_are_told_apart_by_their_ends(tmp_path):
    pytest.importorskip("pysam")
    reads = [("r", 77, "ACGT"), ("r", 141, "GGCC"), ("r", 4, "*")]
    lines = [f"{name}\t{flag}\t*\t0\t0\t*\t*\t0\t0\t{seq}\t*\n" for name, flag, seq in reads]
    (tmp_path / "x.sam").write_text("".join(["@HD\tVN:1.6\n@SQ\tSN:1\tLN:9\n", *lines]))
    found = [(record.seq_id, record.sequence) for record in read_alignments(tmp_path / "x.sam")]
    assert found == [("r/1", "ACGT"), ("r/2", "GGCC"), ("r", "")]


def test_mates_are_not_paired_twice(tmp_path):
    path = tmp_path / "x.bam"
    path.write_bytes(b"CRAM\x03")
    with pytest.raises(InputError, match="drop --paired"):
        next(read_sources(plan_sources([path, path], {}, paired=True)))
