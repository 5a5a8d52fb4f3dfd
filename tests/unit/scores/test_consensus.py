"""The two tables of the original, to the byte; sorting that does not grow with the input."""

import csv
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.scores import consensus
from virnucpro.scores.consensus import ConsensusTable, format_rows

PUBLISHED = """synthetic_seq_1_chunk_1R1\tvirus\t0.12100612\t0.8789939
synthetic_seq_1_chunk_1R2\tvirus\t0.0011595711\t0.9988405
synthetic_seq_2_chunk_1R1\tothers\t0.5501341\t0.4498659
synthetic_seq_2_chunk_1R2\tvirus\t0.06045397\t0.93954605
"""


def written(chunks, scratch, block=consensus.SORT_BLOCK_CHUNKS):
    table, file = ConsensusTable(scratch, block), io.BytesIO()
    for name, flag in chunks:
        table.add([name], [flag])
    table.write(file)
    return file.getvalue()


def test_the_published_rows_come_back_to_the_byte():
    rows = [line.split("\t") for line in PUBLISHED.splitlines()]
    scores = np.array([row[2:] for row in rows], dtype=np.float32)
    assert format_rows([row[0] for row in rows], scores) == PUBLISHED


@pytest.mark.parametrize(
    ("score", "text"),
    [(1e-7, "1e-07"), (1e-4, "1e-04"), (9.9e-5, "9.9e-05"), (1, "1.0"), (0, "0.0"),
     (1e-40, "1e-40"), (0.99999994, "0.99999994"), (0.1, "0.1")],
)  # fmt: skip
def test_scores_are_the_shortest_text_that_is_the_float32(score, text):
    row = format_rows(["aF1"], np.array([[score, 0.5]], np.float32))
    assert row.split("\t")[2] == text


def test_a_tie_is_others_and_a_third_class_stays_out():
    scores = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], np.float32)
    assert format_rows(["aF1", "aF2"], scores) == "aF1\tothers\t0.5\t0.5\naF2\tvirus\t0.2\t0.3\n"


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\t\n\r", codec="utf-8"), max_size=6),
        st.booleans(), max_size=60,
    ),
    st.integers(1, 7),
)  # fmt: skip
def test_blocks_on_disk_give_what_memory_gives(tmp_path_factory, chunks, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consensus, "MERGE_FILES", 3)
        text = written(chunks.items(), tmp_path_factory.mktemp("sort"), block).decode()
    table = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t"))
    assert table[1:] == [[name, str(flag)] for name, flag in sorted(chunks.items())]


def test_the_sort_holds_one_block_and_leaves_nothing(tmp_path):
    peaks = []
    for count in (4_000, 40_000):
        with (tmp_path / "out").open("wb") as file:
            tracemalloc.start()
            table = ConsensusTable(tmp_path, block=1_000)
            table.add((f"contig_{i * 7919 % count}_chunk_1" for i in range(count)), [True] * count)
            table.write(file)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert (tmp_path / "out").read_bytes().count(b"\n") == count + 1
    assert peaks[1] < 4 * peaks[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
