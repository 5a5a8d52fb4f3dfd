"""The reader: what it gives for sound and odd input, and what it refuses, with file and line."""

import bz2
import gzip
import io
import logging
import lzma
from types import SimpleNamespace

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from runs_here import peak_of

from virnucpro.core.errors import InputError
from virnucpro.sequences import fasta, streams
from virnucpro.sequences.fasta import pairs_of, read_fasta, read_records, sample_name, write_fasta
from virnucpro.sequences.read_log import IdRegistry, ReadLog

FASTA = b">a first\nACGT\nACG\n>b\nTTTT\n"
FASTQ = b"@a first\nACGTACG\n+\nIIIIIII\n@b\nTTTT\n+b\nIIII\n"
BOTH = [("a", "ACGTACG"), ("b", "TTTT")]
NOISE = bytes((i * i * 31 + i // 7) % 251 for i in range(40_000)).hex().encode()
LONG = b">a\n" + b"\n".join(NOISE[i : i + 60] for i in range(0, len(NOISE), 60))
PACKERS = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def short(records):
    return [(record.seq_id, record.sequence) for record in records]


@pytest.mark.parametrize("data", [FASTA, FASTQ], ids=["fasta", "fastq"])
@pytest.mark.parametrize("packer", [bytes, *PACKERS.values()], ids=["plain", *PACKERS])
def test_packing_is_told_from_the_content(put, packer, data):
    assert short(read_records([put(packer(data), "misnamed.txt")])) == BOTH


@pytest.mark.parametrize(
    "data",
    [
        FASTA[:-1],
        b"\n \r\n\n" + FASTA + b"\n\n \n",
        FASTQ.replace(b"\n", b"\r\n"),
        FASTQ[:-1],
        b"\xef\xbb\xbf\n" + FASTQ + b"\n \n",
    ],
)
def test_line_ends_marks_and_blanks_change_nothing(put, data):
    assert short(read_records([put(data)])) == BOTH


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_input_without_text_has_no_records(put, data):
    assert short(read_records([put(data)])) == []


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b">a", [("a", "")]),
        (b">\nAC\n> \t\nGT\n>x\nA", [("record_1", "AC"), ("record_2", "GT"), ("x", "A")]),
        (b"@\n\n+\n\n@b\n\n+\n\n\n\n", [("record_1", ""), ("b", "")]),
        (b">record_2\nA\n>\nC\n", [("record_2", "A"), ("record_2__2", "C")]),
        (b">caf\xe9 x\nA\n>caf\xc3\xa9\nC", [("café", "A"), ("café__2", "C")]),
    ],
)
def test_odd_headers_make_a_record_each(put, data, expected):
    assert short(read_records([put(data)])) == expected


def test_ids_are_unique_over_all_inputs_with_one_warning(put, caplog):
    log = ReadLog()
    paths = [put(b">a\nA\n>a\nC\n>a__2\nG\n", "1.fa"), put(b">a\nT\n>b\nA\n", "2.fa")]
    with caplog.at_level(logging.WARNING):
        ids = [record.seq_id for record in read_records(paths, log)]
    assert ids == ["a", "a__2", "a__2__2", "a__3", "b"]
    assert log.duplicates == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "3 records" in caplog.text


def test_standard_input_is_read_once(monkeypatch, put):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(gzip.compress(FASTA))))
    records = list(read_records(["-", put(FASTQ)]))
    assert short(records) == [*BOTH, ("a__2", "ACGTACG"), ("b__2", "TTTT")]
    assert records[0].sample == "stdin"


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        (b"@x 1:N\nA\n+\nI\n", b"@x 2:N\nC\n+\nI\n", ["x/1", "x/2"]),
        (b"@x/1\nA\n+\nI\n", b"@x/2\nC\n+\nI\n", ["x/1", "x/2"]),
        (b">x\nA\n>x\nA\n", b">x\nC\n>x\nC\n", ["x/1", "x/2", "x__2/1", "x__2/2"]),
        (b">\nA\n", b">\nC\n", ["record_1/1", "record_1/2"]),
        (b"", b"", []),
    ],
)
def test_mates_are_no_duplicates(put, first, second, ids):
    log = ReadLog()
    records = list(pairs_of([put(first, "r_1.fq"), put(second, "r_2.fq")], log))
    assert short(records) == list(zip(ids, "AC" * len(records), strict=False))
    assert log.records == len(ids)
    assert log.duplicates == sum("__2/1" in seq_id for seq_id in ids)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (b"@x\nA\n+\nI\n@y\nA\n+\nI\n", b"@x\nA\n+\nI\n@z\nA\n+\nI\n", "2.fq, line 5.*no mate"),
        (b"@x\nA\n+\nI\n", b"@x\nA\n+\nI\n@y\nA\n+\nI\n", "1.fq: ends after 1"),
        (b"@x/2\nA\n+\nI\n", b"@x/1\nA\n+\nI\n", "no mate"),
        (b">S.1\nA\n", b">S.3\nA\n", "no mate"),
    ],
)
def test_files_that_do_not_pair_are_refused(put, first, second, message):
    with pytest.raises(InputError, match=message):
        list(pairs_of([put(first, "1.fq"), put(second, "2.fq")], ReadLog()))


@pytest.mark.parametrize(
    ("path", "name"),
    [("d/a.fa", "a"), ("a.fastq.gz", "a"), ("a.b.FA.XZ", "a.b"), ("a", "a"), ("-", "stdin")],
)
def test_the_sample_is_named_after_the_file(path, name):
    assert sample_name(path) == name


@pytest.mark.parametrize(
    ("data", "line", "problem"),
    [
        (b"ACGT\n", 1, "no header"),
        (b">a\nAC\n>b\nA\0C\n", 4, "NUL"),
        (b">a\rAC\rA\0C\r", 3, "NUL"),
        (">a\nACGT\n".encode("utf-16"), 1, "UTF-16"),
        (">a\nACGT\n".encode("utf-16-be"), 1, "NUL"),
        (b"PK\x03\x04abcdef", 1, "zip archive"),
        (b"@a\nACGT\n+\nIII\n", 4, "FASTQ"),
        (b"@a\nACGT\n+\nIIII\nb\nA\n+\nI\n", 5, "FASTQ"),
        (b"@a\nACGT\n+\n", 4, "FASTQ"),
        (b"@a\nAC\n+\nII\n@\xe9\nAC\n+\nI\xe9\n", 8, "no quality"),
    ],
)
def test_what_is_no_sequence_file_is_refused_with_its_line(put, data, line, problem):
    path = put(data)
    with pytest.raises(InputError, match=problem) as caught:
        list(read_records([path]))
    assert (caught.value.path, caught.value.line) == (path, line)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_truncated_packing_is_refused(put, packer, kept):
    packed = PACKERS[packer](LONG)
    path = put(packed[: max(7, int(len(packed) * kept))])
    with pytest.raises(InputError, match=f"truncated or damaged {packer}") as caught:
        list(read_records([path]))
    assert caught.value.line >= 1


@pytest.mark.parametrize("packer", PACKERS)
def test_damaged_packing_is_refused(put, packer):
    packed = bytearray(PACKERS[packer](LONG))
    middle = len(packed) // 2
    packed[middle : middle + 64] = bytes(64)
    with pytest.raises(InputError):
        list(read_records([put(bytes(packed))]))


@pytest.mark.parametrize(("name", "why"), [(".", "directory"), ("nowhere.fa", "No such file")])
def test_a_missing_file_or_a_directory_is_refused(tmp_path, name, why):
    with pytest.raises(InputError, match=f"cannot be read: .*{why}"):
        list(read_records([tmp_path / name]))


def test_an_unreadable_file_is_refused_whoever_runs_it(put, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    path = put(b">a\nA\n")
    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        list(read_records([path]))


def test_records_before_a_fault_are_given(put):
    records = read_records([put(b">a\nAC\n>b\nAC\n", "1.fa"), put(b"ACGT", "2.fa")])
    assert [next(records).seq_id for _ in range(2)] == ["a", "b"]
    with pytest.raises(InputError, match=r"2\.fa"):
        next(records)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b">ok\nACGT\n>bomb x\n" + b"A" * 9_000, "record bomb"),
        (b">ok\nACGT\n>bomb x\n" + b"ACGT\n" * 2_000, "record bomb"),
        (b">" + b"h" * 9_000, "record h"),
        (b"@q\n" + b"A" * 9_000, "record"),
    ],
    ids=["one-line", "wrapped", "header", "fastq"],
)
def test_an_endless_record_is_refused_by_name(put, monkeypatch, data, name):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 512)
    with pytest.raises(InputError, match=f"{name}.*longer than 5,000"):
        list(read_records([put(data)], ReadLog(max_record_nt=5_000)))


def test_an_endless_header_is_refused_and_a_long_one_read(put, monkeypatch):
    monkeypatch.setattr(streams, "BLOCK_BYTES", 512)
    monkeypatch.setattr(fasta, "MAX_HEADER_BYTES", 2_000)
    good = b">a\nACGT\n>" + b"h" * 1_500 + b"\n" + b"ACGT\n" * 900
    assert [len(record.sequence) for record in read_records([put(good)])] == [4, 3_600]
    with pytest.raises(InputError, match="header of more than 2,000"):
        list(read_records([put(b">a\nACGT\n>" + b"h" * 3_000 + b"\nACGT\n")]))


@pytest.mark.parametrize("packer", PACKERS)
def test_a_bomb_is_stopped_in_bounded_memory(put, packer):
    path = put(PACKERS[packer](b">bomb\n" + (b" " * 59 + b"\n") * 300_000))

    def read():
        with pytest.raises(InputError, match="bomb"):
            list(read_records([path], ReadLog(max_record_nt=12_000_000)))

    assert peak_of(read)[1] < 11_000_000


def outcome(path, block_bytes):
    log = ReadLog()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", block_bytes)
        try:
            records = list(read_records([path], log))
        except InputError as error:
            return str(error)
    return records, log.gaps, log.digits, log.blanks, log.digests


LINES = [
    b">a x\n", b"> b\r\n", b">\n", b"ACGTN\n", b"acgt\r\n", b"AC\r", b"A", b"-.\n", b" 1 A C\n",
]  # fmt: skip
FOUR_LINES = [b"@a\nAC\n+\nII\n", b"@b x\r\nAC-\r\n+\r\nI@I\r\n", b"@c\n\n+\n\n", b"\n", b" \n"]
ODD = [b"A>c\n", b"#\n", b"\n", b"\xef\xbb\xbf", b"\0", b"\xe9", b"AC\nGT\n", b"+\n", b"12\n"]
files = st.lists(st.sampled_from(LINES * 3 + ODD), max_size=30).map(lambda p: b">a\n" + b"".join(p))
files |= st.lists(st.sampled_from(FOUR_LINES * 3 + ODD), max_size=12).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(data=files, block_bytes=st.integers(1, 40))
def test_where_blocks_end_changes_nothing(tmp_path_factory, data, block_bytes):
    path = tmp_path_factory.getbasetemp() / "blocks"
    path.write_bytes(data)
    assert outcome(path, block_bytes) == outcome(path, 1 << 18)


@given(st.lists(st.sampled_from(["a", "b", "a__2", "a__3", "b__2", "a__2__2", ""]), max_size=40))
def test_every_id_is_new_and_first_comers_keep_theirs(names):
    ids = IdRegistry()
    given_out = [ids.unique(name) for name in names]
    assert len(set(given_out)) == len(names)
    for place, (name, unique) in enumerate(zip(names, given_out, strict=True)):
        if name not in given_out[:place]:
            assert unique == name
        else:
            assert unique.rpartition("__")[0] == name


def text_of(entries, **options):
    handle = io.StringIO()
    write_fasta(handle, entries, **options)
    return handle.getvalue()


@pytest.mark.parametrize(
    ("length", "lines"), [(0, [0]), (1, [1]), (60, [60]), (61, [60, 1]), (120, [60, 60])]
)
def test_wrapped_lines_have_60_letters(length, lines):
    text = text_of([("x", "A" * length)], wrapped=True)
    assert text.startswith(">x\n")
    assert text.endswith("\n")
    assert [len(line) for line in text[3:-1].split("\n")] == lines
    assert text_of([("x", "A" * length)]) == ">x\n" + "A" * length + "\n"


entry = st.tuples(
    st.text("abcé/|\"'_.1", min_size=1, max_size=9), st.text("ACGTacgt", max_size=150)
)


@given(entries=st.lists(entry, max_size=6), wrapped=st.booleans())
def test_what_is_written_is_read_back(tmp_path_factory, entries, wrapped):
    path = tmp_path_factory.getbasetemp() / "between.fa"
    path.write_text(text_of(entries, wrapped=wrapped), encoding="utf-8", newline="\n")
    assert list(read_fasta(path)) == entries


@pytest.mark.parametrize("text", ["ACGT\n", None])
def test_a_file_that_is_not_ours_is_refused(tmp_path, text):
    path = tmp_path / "x.fa"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=r"x\.fa"):
        list(read_fasta(path))
