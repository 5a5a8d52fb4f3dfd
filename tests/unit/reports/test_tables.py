"""The tables, their files, and what genome browsers read."""

import gzip
from urllib.parse import unquote

import pytest

from virnucpro.core.errors import InputError
from virnucpro.core.records import Record, Status
from virnucpro.reports.table_files import gff_attribute, gff_seqid, table_files
from virnucpro.reports.tables import (
    CALL_COLUMNS,
    CHUNK_COLUMNS,
    REGION_COLUMNS,
    CallRow,
    ChunkRow,
    RegionRow,
    header,
)

ROWS = [
    CallRow("a;b=c", 1200, 3, 5, Status.CALLED, 0.875, "virus", "mini", "gut", 2, 1, 1, 0.25),
    CallRow("../x", 10, 0, 0, Status.TOO_SHORT, None, None, "mini", "gut"),
]
CHUNKS = [
    ChunkRow("a;b=c", 1, 0, 500, "F1", 0, 300, 0.9, "gut"),
    ChunkRow("a;b=c", 2, 500, 1000, sample="gut"),
    ChunkRow("a;b=c", 3, 700, 1200, "R2", 730, 1000, 0.75, "gut"),
]
REGION = RegionRow("a;b=c", 1, 0, 1200, 1.0, 2, 0, 0.825, 3.3, "virus", "gut")


def test_rows_come_back_as_written(tmp_path):
    calls, chunks, regions = (tmp_path / name for name in ("calls.tsv", "chunks.tsv", "r.tsv"))
    calls.write_text(header(CALL_COLUMNS) + "".join(row.line() for row in ROWS))
    chunks.write_text(header(CHUNK_COLUMNS) + "".join(row.line() for row in CHUNKS))
    regions.write_text(header(REGION_COLUMNS) + REGION.line())
    assert calls.read_text().startswith("id\tlength\tchunks\torfs\tstatus\tp_virus\tcall\tmodel\t")
    assert list(CallRow.read(calls)) == ROWS
    assert list(ChunkRow.read(chunks)) == CHUNKS
    assert list(RegionRow.read(regions)) == [REGION]
    assert [row.strand for row in CHUNKS] == ["+", "", "-"]
    assert [row.share_scored for row in ROWS] == [2 / 3, None]


@pytest.mark.parametrize(
    ("read", "columns", "line", "good", "bad"),
    [
        (CallRow.read, CALL_COLUMNS, ROWS[0].line(), "1200", "many"),
        (CallRow.read, CALL_COLUMNS, ROWS[0].line(), "called", "guessed"),
        (CallRow.read, CALL_COLUMNS, ROWS[0].line(), "0.875", "nan"),
        (ChunkRow.read, CHUNK_COLUMNS, CHUNKS[2].line(), "730", "7e2"),
        (ChunkRow.read, CHUNK_COLUMNS, CHUNKS[2].line(), "0.75", "inf"),
        (RegionRow.read, REGION_COLUMNS, REGION.line(), "1200", ""),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, read, columns, line, good, bad):
    path = tmp_path / "table.tsv"
    path.write_text(header(columns) + line + line.replace(good, bad))
    with pytest.raises(InputError, match="record 'a;b=c'") as caught:
        list(read(path))
    assert (caught.value.path, caught.value.line) == (path, 3)


def write_all(folder, gzip_fasta=False):
    folder.mkdir(exist_ok=True)
    with table_files(folder, gzip_fasta) as files:
        record = Record("a;b=c", "a;b=c the header", "acgtN" * 20)
        files.add("a;b=c", ROWS[0].line()[:-1].split("\t"), [REGION], CHUNKS, record)
        files.add("../x", ROWS[1].line()[:-1].split("\t"), [], [], None)


def test_browser_files_hold_places_in_their_own_convention(tmp_path):
    write_all(tmp_path)
    assert (tmp_path / "viral_regions.bed").read_text() == (
        "a;b=c\t0\t1200\tviral_region_1\t825\t.\n"
    )
    chunks = [line.split("\t") for line in (tmp_path / "viral_chunks.bed").read_text().split("\n")]
    assert [fields[:8] for fields in chunks[:-1]] == [
        ["a;b=c", "0", "500", "chunk_1F1", "900", "+", "0", "300"],
        ["a;b=c", "700", "1200", "chunk_3R2", "750", "-", "730", "1000"],
    ]
    gff = (tmp_path / "viral.gff3").read_text().splitlines()
    assert gff[:2] == ["##gff-version 3", "##sequence-region a%3Bb%3Dc 1 1200"]
    region, *orfs = [line.split("\t") for line in gff[2:]]
    assert region[:5] == ["a%3Bb%3Dc", "VirNucPro", "viral_sequence", "1", "1200"]
    attributes = dict(pair.split("=") for pair in region[8].split(";"))
    assert unquote(attributes["ID"]) == "a;b=c:viral_region_1"
    assert [(orf[2], orf[3], orf[4], orf[6]) for orf in orfs] == [
        ("ORF", "1", "300", "+"),
        ("ORF", "731", "1000", "-"),
    ]
    assert all(f"Parent={attributes['ID']};" in orf[8] for orf in orfs)


def test_fasta_keeps_header_and_letters_and_packs_the_same_bytes(tmp_path):
    write_all(tmp_path / "plain")
    plain = (tmp_path / "plain" / "viral.fasta").read_text()
    assert plain == f">a;b=c the header\n{'acgtN' * 12}\n{'acgtN' * 8}\n"
    write_all(tmp_path / "packed", gzip_fasta=True)
    packed = (tmp_path / "packed" / "viral.fasta.gz").read_bytes()
    assert gzip.decompress(packed).decode() == plain
    assert (tmp_path / "plain" / "regions.fasta").read_text() == ""  # the whole is viral
    write_all(tmp_path / "packed", gzip_fasta=True)
    assert (tmp_path / "packed" / "viral.fasta.gz").read_bytes() == packed


@pytest.mark.parametrize("seq_id", [">a", "a%b", "a b\t", "contig|1", "é", "a,b&c", "#1"])
def test_escapes_can_be_undone_and_leave_no_forbidden_letter(seq_id):
    assert unquote(gff_seqid(seq_id)) == unquote(gff_attribute(seq_id)) == seq_id
    assert not set(gff_seqid(seq_id)) & set("> \t&,;=\n")
    assert not set(gff_attribute(seq_id)) & set("\t\n;=&,")


def test_no_line_of_bed_is_a_comment(tmp_path):
    with table_files(tmp_path, gzip_fasta=False) as files:
        files.add("#1", ROWS[0].line()[:-1].split("\t"), [REGION], CHUNKS, None)
    for name in ("viral_regions.bed", "viral_chunks.bed"):
        assert (tmp_path / name).read_text().startswith("%231\t")
