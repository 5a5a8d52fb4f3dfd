"""Reading ahead changes no token, however many processes do it and whichever of them dies."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from runs import are_gone, wait_for
from staged_files import tiny_dna_encoder, write_split_files

from virnucpro.encoders.tokenizers import ProteinTokenizer, make_tokenizer
from virnucpro.engines.feeding import tokenize
from virnucpro.pipeline.sequence_index import build_index, read_sequences
from virnucpro.pipeline.shard_reader import ShardReader

SHARDS, RECORDS = 7, 12


@pytest.fixture(params=["protein", "dna"])
def work(request, tmp_path):
    """Files, their tokenizer, the places of each shard, and the tokens read one by one."""
    dna, protein = write_split_files(tmp_path, 2, RECORDS)
    is_dna = request.param == "dna"
    files = dna if is_dna else protein
    tokenizer = make_tokenizer(tiny_dna_encoder(tmp_path / "w")) if is_dna else ProteinTokenizer()
    index = build_index(files)
    shards = [index.places.take(np.arange(k, len(index), SHARDS)) for k in range(SHARDS)]
    wanted = [tokenize(tokenizer, *read_sequences(files, places)) for places in shards]
    return files, tokenizer, shards, wanted


@pytest.fixture
def started(work):
    """`started(n)`: a reader whose n processes can read, and their pids."""
    before = set(multiprocessing.active_children())
    readers = []

    def start(processes):
        readers.append(ShardReader(*work[:2], processes))
        readers[-1].wait()
        pids = [child.pid for child in set(multiprocessing.active_children()) - before]
        assert len(pids) == processes
        assert wait_for(lambda: all(is_settled(pid) for pid in pids))
        return readers[-1], pids

    yield start
    for reader in readers:
        reader.close()
    for left in set(multiprocessing.active_children()) - before:
        left.kill()  # a test that failed must not keep the next one, or the exit, waiting


def is_settled(pid):
    """Whether a process leaves Ctrl-C to its parent, as a reader does from its first shard on."""
    [ignored] = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return int(ignored, 16) >> (signal.SIGINT - 1) & 1


def expect_all(found, wanted):
    """Every sequence once, under its own id, in order, with the same bytes."""
    for items, others in zip(found, wanted, strict=True):
        assert [item.seq_id for item in items] == [other.seq_id for other in others]
        assert [item.ids.tolist() for item in items] == [other.ids.tolist() for other in others]
    ids = [item.seq_id for items in found for item in items]
    assert len(set(ids)) == len(ids) == 2 * RECORDS


@pytest.mark.parametrize("processes", [0, 1, 2, 5])
def test_any_number_of_processes_reads_every_sequence_once(work, started, processes):
    _, _, shards, wanted = work
    reader, pids = started(processes)
    begun = [reader.start(places) for places in shards]
    assert all((future is None) == (processes == 0) for future in begun)
    expect_all([reader.finish(*pair) for pair in zip(shards, begun, strict=True)], wanted)
    reader.close()
    assert are_gone(pids)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_process_costs_no_sequence_and_leaves_no_other(work, started, caplog, processes):
    _, _, shards, wanted = work
    reader, pids = started(processes)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)  # so that shards are at work when one of them dies
    begun = [reader.start(places) for places in shards[:-1]]
    os.kill(pids[0], signal.SIGKILL)
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    found = [reader.finish(*pair) for pair in zip(shards, begun, strict=False)]
    late = reader.start(shards[-1])
    expect_all([*found, reader.finish(shards[-1], late)], wanted)
    if processes == 1:  # of two the other one may have read all before the loss is seen
        assert late is None and "this rank reads for itself" in caplog.text
    reader.close()
    assert are_gone(pids), "a process outlived the reader"


def test_a_process_lost_between_two_shards_costs_no_sequence(work, started):
    _, _, shards, wanted = work
    reader, pids = started(2)
    found = [reader.finish(shards[0], reader.start(shards[0]))]
    os.kill(pids[0], signal.SIGKILL)
    assert are_gone(pids[:1])
    found += [reader.finish(places, reader.start(places)) for places in shards[1:]]
    expect_all(found, wanted)
    reader.close()
    assert are_gone(pids), "a process outlived the reader"
