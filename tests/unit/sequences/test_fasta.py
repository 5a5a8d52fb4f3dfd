"""The reader: what it gives for sound and for odd input."""

import bz2
import gzip
import io
import logging
import lzma
import os
import threading
import tracemalloc
from types import SimpleNamespace

import pytest
import zstandard

from virnucpro.core.errors import InputError
from virnucpro.sequences.fasta import pairs_of, read_records, sample_name
from virnucpro.sequences.read_log import ReadLog

FASTA = b">a first\nACGT\nACG\n>b\nTTTT\n"
FASTQ = b"@a first\nACGTACG\n+\nIIIIIII\n@b\nTTTT\n+b\nIIII\n"
BOTH = [("a", "ACGTACG"), ("b", "TTTT")]
PACKERS = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bgzip": lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]) + gzip.compress(b""),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstandard": zstandard.compress,
    "zstandard-frames": lambda d: zstandard.compress(d[:9]) + zstandard.compress(d[9:]),
}


@pytest.fixture
def put(tmp_path):
    def write(data, name="in.fa"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def short(records):
    return [(record.seq_id, record.sequence) for record in records]


@pytest.mark.parametrize("data", [FASTA, FASTQ], ids=["fasta", "fastq"])
@pytest.mark.parametrize("packer", PACKERS)
def test_packing_is_told_from_the_content(put, packer, data):
    assert short(read_records([put(PACKERS[packer](data), "misnamed.txt")])) == BOTH


@pytest.mark.parametrize(
    "data",
    [
        FASTA.replace(b"\n", b"\r\n"),
        FASTA.replace(b"\n", b"\r"),
        FASTA[:-1],
        b"\xef\xbb\xbf" + FASTA,
        b"\n \r\n\n" + FASTA + b"\n\n \n",
        b">a first\nAC GT\t\n\n  ACG\n>b \nT T T T\n",
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
        (b">a\n>b\nAC\n", [("a", ""), ("b", "AC")]),
        (b">a", [("a", "")]),
        (b">\nAC\n> \t\nGT\n>x\nA", [("record_1", "AC"), ("record_2", "GT"), ("x", "A")]),
        (b"@\n\n+\n\n@b\n\n+\n\n\n\n", [("record_1", ""), ("b", "")]),
        (b">record_2\nA\n>\nC\n", [("record_2", "A"), ("record_2__2", "C")]),
        (b">../x/'\"y|\tz\nA\n", [("../x/'\"y|", "A")]),
        (b">caf\xe9 x\nA\n>caf\xc3\xa9\nC", [("café", "A"), ("café__2", "C")]),
        (b">a>b\nAC\n", [("a>b", "AC")]),
    ],
)
def test_odd_headers_make_a_record_each(put, data, expected):
    assert short(read_records([put(data)])) == expected


def test_gaps_are_removed_and_counted(put):
    log = ReadLog()
    first, second = read_records([put(b">a\nAC--G.T\n*A C*\n>b\nNNRYK\n")], log)
    assert (first.sequence, first.gaps) == ("ACGTAC", 5)
    assert (second.sequence, second.gaps) == ("NNRYK", 0)
    assert (log.records, log.gaps) == (2, 5)


def test_records_know_header_and_sample(put):
    records = list(read_records([put(FASTA, "x.v1.fa.gz"), put(FASTQ, "y.fq")]))
    assert [record.sample for record in records] == ["x.v1", "x.v1", "y", "y"]
    assert records[0].header == "a first"


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
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(FASTA)))
    with pytest.raises(InputError, match="given twice"):
        list(read_records(["-", "-"]))


def test_a_pipe_can_be_an_input(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(PACKERS["zstandard"](FASTA),))
    writer.start()
    assert short(read_records([pipe])) == BOTH
    writer.join()


def test_reading_streams(put):
    data = b"".join(b">r%d\n%s\n" % (i, b"ACGT" * 250) for i in range(20_000))
    path = put(gzip.compress(data, 1))
    records = read_records([path])
    next(records)
    tracemalloc.start()
    count = sum(1 for _ in records)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 19_999
    assert peak < len(data) / 4


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        (b"@x 1:N\nA\n+\nI\n", b"@x 2:N\nC\n+\nI\n", ["x/1", "x/2"]),
        (b"@x/1\nA\n+\nI\n", b"@x/2\nC\n+\nI\n", ["x/1", "x/2"]),
        (b"@S.1.1\nA\n+\nI\n", b"@S.1.2\nC\n+\nI\n", ["S.1/1", "S.1/2"]),
        (b">x\nA\n>x\nA\n", b">x\nC\n>x\nC\n", ["x/1", "x/2", "x__2/1", "x__2/2"]),
        (b">\nA\n", b">\nC\n", ["record_1/1", "record_1/2"]),
        (b"", b"", []),
    ],
)
def test_mates_are_no_duplicates(put, first, second, ids):
    log = ReadLog()
    pairs = list(pairs_of([put(first, "r_1.fq"), put(second, "r_2.fq")], log))
    assert [record.seq_id for pair in pairs for record in pair] == ids
    assert all(one.sequence == "A" and two.sequence == "C" for one, two in pairs)
    assert log.records == len(ids)
    assert log.duplicates == sum("__2/1" in seq_id for seq_id in ids)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (b"@x\nA\n+\nI\n@y\nA\n+\nI\n", b"@x\nA\n+\nI\n@z\nA\n+\nI\n", "2.fq, line 5.*no mate"),
        (b"@x\nA\n+\nI\n", b"@x\nA\n+\nI\n@y\nA\n+\nI\n", "1.fq: ends after 1"),
        (b"@x/2\nA\n+\nI\n", b"@x/1\nA\n+\nI\n", "no mate"),
        (b">S.1\nA\n", b">S.3\nA\n", "no mate"),
        (b">x\nA\n", b">\nA\n", "no mate"),
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
