"""Inputs become samples."""

import sys
from pathlib import Path

import pytest

from virnucpro.core.errors import InputError, UsageError
from virnucpro.pipeline.inputs import folder_names, plan_sources, read_sources, sample_names
from virnucpro.sequences.alignments import read_alignments
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


def test_without_pysam_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pysam", None)
    with pytest.raises(InputError, match=r"pip install 'virnucpro\[bam\]'"):
        next(read_alignments(tmp_path / "x.bam"))


def test_mates_are_not_paired_twice(tmp_path):
    path = tmp_path / "x.bam"
    path.write_bytes(b"CRAM\x03")
    with pytest.raises(InputError, match="drop --paired"):
        next(read_sources(plan_sources([path, path], {}, paired=True)))
