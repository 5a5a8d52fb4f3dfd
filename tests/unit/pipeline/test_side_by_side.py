"""Shards that processes read side by side are those that one process reads, whatever the input."""

import gzip
import multiprocessing
import pickle
import random
from unittest import mock

import pytest

from virnucpro.core.errors import InputError
from virnucpro.pipeline import input_pass
from virnucpro.pipeline.input_pass import Rules, Unit, read_inputs
from virnucpro.pipeline.inputs import describe_inputs, plan_sources
from virnucpro.sequences import streams
from virnucpro.sequences.orfs import OrfPolicy
from virnucpro.sequences.read_log import ReadLog

RULES = Rules(90, OrfPolicy("longest", 2), min_length=30)


def dna(length, seed):
    return "".join(random.Random(seed).choices("ACGTacgt", k=length))


def fastq(names, ending=""):
    reads = {name: dna(60 + 3 * seed, seed) for seed, name in enumerate(names)}
    return "".join(f"@{n}{ending} of test\n{s}\n+\n{'I' * len(s)}\n" for n, s in reads.items())


def fasta(names, width=50):
    text = ""
    for seed, name in enumerate(names):
        letters = dna(40 + 7 * seed, seed)
        lines = [letters[i : i + width] for i in range(0, len(letters), width)]
        text += "\n".join([f">{name} of test", *lines, ""])
    return text


NAMES = [f"r{k}" for k in range(23)]
PLAIN, WRAPPED = fastq(NAMES), fasta(NAMES)
TWICE = fastq(NAMES[:11]) + fastq(["r3", "r10", "r3__2", *NAMES[11:20]])
LINES = PLAIN.splitlines(keepends=True)
PAIRED = {"a_1.fq": fastq(NAMES, "/1"), "a_2.fq": fastq(NAMES, "/2")}
MATES = "".join("".join(LINES[i : i + 4]) * 2 for i in range(0, len(LINES), 4))


def changed(place, line):
    return "".join([*LINES[:place], line, *LINES[place + 1 :]])


WHOLE = {
    "plain": {"a.fq": PLAIN},
    "packed": {"a.fq.gz": gzip.compress(PLAIN.encode())},
    "wrapped": {"a.fa": WRAPPED},
    "no end of line": {"a.fa": WRAPPED.rstrip(), "b.fq": PLAIN.rstrip()},
    "returns": {"a.fq": PLAIN.replace("\n", "\r\n")},
    "blank lines at both ends": {"a.fq": "\n\n" + PLAIN + "\n \n\n", "b.fa": "\n" + WRAPPED + "\n"},
    "shards that are full at the end": {"a.fq": fastq(NAMES[:12]) + "\n" * 40},
    "ids given twice": {"a.fq": TWICE},
    "samples with the same ids": {"a.fq": PLAIN, "b.fa": WRAPPED, "c.fq": fastq(NAMES[:1])},
    "gaps and marks": {
        "a.fa": WRAPPED.replace("of test\n", "of test\nAC-G 12 T\n") + ">x>y\nACGT\n"
    },
    "no letters at the end": {"a.fq": fastq(NAMES[:7]) + "@none\n\n+\n\n"},
    "two files of mates": PAIRED,
    "mates in one file": {"a.fq": MATES},
}
READ_ALONE = {
    "no names": {"a.fa": WRAPPED.replace(">r9 of test", ">")},
    "long records": {"a.fa": fasta(NAMES[:8]) + f">long\n{dna(30_000, 1)}\n" + fasta(["y", "z"])},
    "few long records": {"a.fa": "".join(f">c{i}\n{dna(2_000, i)}\n" for i in range(9))},
}
SIGN = changed(81, "A_\n")
WRONG = {
    "a blank line between": {"a.fq": changed(52, "\n" + LINES[52])},
    "a sign": {"a.fq": changed(53, "AC!GT\n")},
    "a sign, and later the end of the data": {"a.fq.gz": gzip.compress(SIGN.encode())[:-9]},
    "binary data": {"a.fq": changed(69, "AC\0T\n")},
    "a line too few": {"a.fq": changed(40, "")},
    "ends inside a record": {"a.fq": "".join(LINES[:-2])},
    "a mate too few": PAIRED | {"a_2.fq": fastq(NAMES[:-1], "/2")},
    "no mate at the end": {"a.fq": MATES + fastq(["z"])},
    "no mates": PAIRED | {"a_2.fq": fastq([*NAMES[:15], "other", *NAMES[16:]], "/2")},
    "no record in the second": {"a.fq": PLAIN, "b.fq": "hello\n"},
    "wrapped": {"a.fq": changed(61, "ACGT\nACGT\n")},
}  # fmt: skip


def no_pool(workers):
    """Stands where processes would be: tasks and results are pickled all the same."""

    def imap(work, tasks, chunksize):
        done = (pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(t))))) for t in tasks)
        return mock.Mock(next=lambda timeout: next(done))

    return mock.MagicMock(imap=imap)


@pytest.fixture
def read(tmp_path, caplog):
    """Everything that comes of some files, the last of it what went wrong."""

    def passed(files, workers, digests=None):
        caplog.clear()
        paths = [tmp_path / name for name in files]
        for path, content in zip(paths, files.values(), strict=True):
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        is_paired = len(paths) == 2 and "a_1.fq" in files
        is_mixed = "a.fq" in files and files["a.fq"].startswith(MATES)
        sources = plan_sources(
            paths, {}, is_paired, interleaved=is_mixed,
            digests=digests or [one["sha256"] for one in describe_inputs(paths, {})],
        )  # fmt: skip
        log, events = ReadLog(), []
        try:
            for event in read_inputs(sources, RULES, 7, workers, log):
                if isinstance(event, Unit):
                    events.append((event.number, event.dna, event.protein, event.rows))
                    continue
                arrays = event.chunks.tolist(), event.orfs.tolist()
                events.append((event.records, event.units, *arrays))
        except InputError as error:
            return events, str(error), caplog.messages
        return events, (log.gaps, log.digits, log.blanks, log.bytes_read), caplog.messages

    return passed


@pytest.fixture
def here(monkeypatch):
    """Small shards and blocks, and no process; the units from which on this one reads by itself."""
    monkeypatch.setattr(input_pass, "LEAST_BYTES", 0)
    monkeypatch.setattr(input_pass, "MOST_BYTES", 20_000)
    monkeypatch.setattr(input_pass, "SHARD_RECORDS", 5)
    monkeypatch.setattr(input_pass, "SHARD_CHUNKS", 40)
    monkeypatch.setattr(streams, "BLOCK_BYTES", 5)
    context = mock.Mock(Pool=no_pool)
    monkeypatch.setattr(multiprocessing, "get_context", lambda how: context)
    first_units, real = [], input_pass.input_pass

    def noted(*given, **named):
        first_units.extend(named.values())
        return real(*given, **named)

    monkeypatch.setattr(input_pass, "input_pass", noted)
    return first_units


@pytest.mark.parametrize("name", WHOLE)
def test_side_by_side_everything_is_as_in_one_process(name, read, here):
    expected = read(WHOLE[name], 1)
    assert len(expected[0]) > 4 and not isinstance(expected[1], str)
    here.clear()
    assert read(WHOLE[name], 2) == expected
    assert here == []


@pytest.mark.parametrize("name", [*READ_ALONE, *WRONG])
def test_what_is_odd_is_read_in_one_process_from_there_on(name, read, here):
    expected = read(READ_ALONE.get(name) or WRONG[name], 1)
    assert isinstance(expected[1], str) == (name in WRONG)
    here.clear()
    found = read(READ_ALONE.get(name) or WRONG[name], 2)
    assert found[1:] == expected[1:] and len(here) == 1
    # a shard right before what is wrong may come too: it is known to be over
    assert found[0][: len(expected[0])] == expected[0]
    assert found == expected or name in WRONG


def test_an_input_without_records_is_one_empty_shard(read, here):
    expected = read({"a.fq": "\n \n"}, 1)
    assert len(expected[0]) == 1
    assert read({"a.fq": "\n \n"}, 2) == expected


def test_an_input_that_is_another_by_now_is_told(read, here):
    expected = read({"a.fq": PLAIN}, 1, digests=["0"])
    assert "a.fq: changed during the run" in expected[1]
    assert read({"a.fq": PLAIN}, 2, digests=["0"]) == expected


def test_processes_read_the_shards(read, monkeypatch):
    files = {"a.fq": TWICE, "b.fa": WRAPPED}
    expected = read(files, 2)
    monkeypatch.setattr(input_pass, "LEAST_BYTES", 0)
    monkeypatch.setattr(input_pass, "input_pass", None)  # none is read in this one
    assert read(files, 2) == expected
    assert not multiprocessing.active_children()
