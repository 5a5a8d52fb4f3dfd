"""`virnucpro predict` on input of every kind: nothing is lost, nothing ends in a traceback."""

import json
import sys
from pathlib import Path

import pytest
from runs_here import dna

from virnucpro.core.errors import InputError, UsageError
from virnucpro.core.records import Status
from virnucpro.pipeline.inputs import folder_names, plan_sources, read_sources, sample_names
from virnucpro.reports.tables import CALL_COLUMNS, CHUNK_COLUMNS, CallRow, ChunkRow
from virnucpro.sequences.alignments import read_alignments
from virnucpro.sequences.read_log import ReadLog


def rows_of(out):
    return list(CallRow.read(out / "calls.tsv"))


@pytest.fixture
def run(predict, tmp_path):
    def go(content: bytes, *flags, name="in.fa"):
        path = tmp_path / name
        path.write_bytes(content)
        out = tmp_path / "out"
        result = predict(path, "-o", out, *flags)
        return result, rows_of(out) if (out / "calls.tsv").exists() else None

    return go


def test_one_row_each_with_its_status_and_counts_that_add_up(run, tmp_path):
    good = dna(1, 700)
    entries = [
        ("plain", good), ("", good), ("nothing", ""), ("short", "ACGT"), ("n", "N" * 600),
        ("iupac", "RYKMSWBDHVN" + good), ("gaps text", good[:50] + "--..**" + good[50:]),
        ("protein", "MKVLEQFPI" * 20), ("rna", good.replace("T", "U").lower()),
        ("plain again", good), ("../../etc/passwd", good), ("\"quoted'", good), ("a\tb", good),
        ("#comment", good), ("=1+1", good),
    ]  # fmt: skip
    text = "\r\n".join(f">{header}\r\n{sequence}" for header, sequence in entries)
    result, rows = run(b"\xef\xbb\xbf" + text.encode())
    assert result.exit_code == 0, result.output
    scored = ["plain", "record_2", "iupac", "gaps", "rna", "plain__2", "../../etc/passwd"]
    scored += ["\"quoted'", "a", "#comment", "=1+1"]
    silent = {"nothing": "too_short", "short": "too_short", "n": "ambiguous", "protein": "not_dna"}
    statuses = {row.seq_id: str(row.status) for row in rows}
    assert statuses == {**dict.fromkeys(scored, "called"), **silent}
    assert [row.seq_id for row in rows][:5] == ["plain", "record_2", "nothing", "short", "n"]
    counts = json.loads((tmp_path / "out" / "run.json").read_text())["stages"]
    scoring = counts["scoring"]
    assert scoring["records"] == counts["tables"]["records"] == len(rows)
    assert scoring["chunks"] == sum(row.chunks for row in rows)
    assert scoring["gaps"] == 6
    assert scoring["orfs"] == sum(row.orfs for row in rows)
    assert scoring["chunks_scored"] == sum(row.chunks_scored for row in rows)
    chunks = list(ChunkRow.read(tmp_path / "out" / "chunks.tsv"))
    assert len(chunks) == sum(row.chunks for row in rows)
    for row in rows:
        assert (row.p_virus is None) == (row.call is None) == (row.status is not Status.CALLED)
        assert (row.fdr is None) == (row.p_virus is None)
        assert row.supporting + row.opposing <= row.chunks_scored <= row.chunks
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.fa", "out"]


def test_an_empty_file_gives_tables_of_headers_only(run, tmp_path):
    result, rows = run(b"")
    assert (result.exit_code, rows) == (0, [])
    out = tmp_path / "out"
    assert (out / "calls.tsv").read_text() == "\t".join(CALL_COLUMNS) + "\n"
    assert (out / "chunks.tsv").read_text() == "\t".join(CHUNK_COLUMNS) + "\n"
    assert (out / "in_merged" / "prediction_results.txt").read_text().count("\n") == 1
    assert (out / "in_merged" / "prediction_results_highestscore.csv").read_text().count("\n") == 1
    assert (out / "viral.fasta").read_bytes() == b""
    assert json.loads((out / "run.json").read_text())["status"] == "done"


def test_min_length_and_sample_n_leave_a_row_for_what_they_pass_over(run):
    entries = [f">c{i}\n{dna(i, 100 + 50 * i)}\n" for i in range(10)]
    result, rows = run("".join(entries).encode(), "--min-length", "200", "--sample-n", "5")
    assert result.exit_code == 0
    called = [row for row in rows if row.status is Status.CALLED]
    assert len(rows) == 10
    assert {str(row.status) for row in rows} == {"called", "filtered"}
    assert len(called) == 4
    assert all(row.length >= 200 for row in called)


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
        next(read_alignments(tmp_path / "x.bam", ReadLog()))


@pytest.mark.parametrize(("first", "second", "is_told"), [
    ("x_R1.fastq.gz", "x_R2.fastq.gz", True), ("r1.fq", "r2.fq", True),
    ("sample1.fq", "sample2.fq", False), ("x_1.fa", "x_2.fa", False), ("x_1.fq", "y_2.fq", False),
])  # fmt: skip
def test_files_that_look_like_mates_are_told(tmp_path, caplog, first, second, is_told):
    paths = [tmp_path / first, tmp_path / second]
    plan_sources(paths, {}, paired=True)
    assert not caplog.messages
    plan_sources(paths, {}, paired=False)
    assert any("--paired" in message for message in caplog.messages) == is_told


def test_mates_are_not_paired_twice(tmp_path):
    paths = [tmp_path / "x.bam", tmp_path / "y.bam"]
    for path in paths:
        path.write_bytes(b"CRAM\x03")
    with pytest.raises(InputError, match="drop --paired"):
        next(read_sources(plan_sources(paths, {}, paired=True)))
