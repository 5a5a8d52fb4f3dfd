"""Threads prepare batches: in order, exactly once, and they end."""

import threading

import numpy as np
import pytest

from virnucpro.engines.feeding import Ahead, spread, tokenize


@pytest.mark.parametrize("threads", [0, 1, 2, 5])
def test_spread_is_map_and_reads_no_further_ahead_than_it_may(threads):
    read = []

    def given(n):
        for x in range(n):
            read.append(x)
            yield x

    for n in (0, 1, 9, 50):
        assert list(spread(lambda x: x * x, given(n), threads)) == [x * x for x in range(n)]
    read.clear()
    results = spread(lambda x: x, given(100), threads)
    next(results)
    assert len(read) <= max(1, 2 * threads)
    results.close()


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_elements_before_an_error_arrive_first_and_the_end_stays_the_end(depth):
    def source():
        yield from range(3)
        raise OSError("gone")

    with Ahead(source(), depth) as ahead:
        assert [next(ahead) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(OSError, match="gone"):
            next(ahead)
    with Ahead(iter([1]), depth) as ahead:
        assert list(ahead) == [1]
        assert next(ahead, "end") == "end"


def test_leaving_early_ends_the_thread_and_closes_the_source():
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    before = threading.active_count()
    with Ahead(source(), 2) as ahead:
        next(ahead)
    assert closed.is_set()
    assert threading.active_count() == before


class Letters:
    def encode(self, sequence):
        return np.frombuffer(sequence.encode(), dtype=np.uint8).astype(np.int64)


class Batches(Letters):
    def encode_batch(self, sequences):
        return [self.encode(letters) for letters in sequences]


@pytest.mark.parametrize("tokenizer", [Letters(), Batches()], ids=["one", "many"])
@pytest.mark.parametrize("threads", [0, 3])
def test_tokenize_keeps_the_order_of_its_sequences(tokenizer, threads):
    sequences = ["A" * (i % 7 + 1) + chr(65 + i % 26) for i in range(600)]
    items = tokenize(tokenizer, sequences, threads)
    assert [bytes(item.astype(np.uint8)).decode() for item in items] == sequences
