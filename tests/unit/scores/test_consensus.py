"""The two tables of the original, to the byte; sorting that does not grow with the input."""

from __future__ import annotations

import csv
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnucpro.core.errors import InputError
from virnucpro.scores import consensus
from virnucpro.scores.consensus import (
    ChunkScore,
    FrameScore,
    chunk_scores,
    format_rows,
    read_predictions,
    write_consensus,
    write_predictions,
)

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
PUBLISHED = """Sequence_ID\tPrediction\tscore1\tscore2
synthetic_seq_1_chunk_1R1\tvirus\t0.12100612\t0.8789939
synthetic_seq_1_chunk_1R2\tvirus\t0.0011595711\t0.9988405
synthetic_seq_2_chunk_1R1\tothers\t0.5501341\t0.4498659
synthetic_seq_2_chunk_1R2\tvirus\t0.06045397\t0.93954605
"""
PUBLISHED_CONSENSUS = """Modified_ID\tIs_Virus
synthetic_seq_1_chunk_1\tTrue
synthetic_seq_2_chunk_1\tTrue
"""


def consensus_of(frames, **options):
    file = io.BytesIO()
    write_consensus(file, chunk_scores(frames), **options)
    return file.getvalue()


def test_the_published_rows_come_back_to_the_byte(tmp_path):
    rows = [line.split("\t") for line in PUBLISHED.splitlines()[1:]]
    scores = np.array([row[2:] for row in rows], dtype=np.float32)
    with (tmp_path / "out.txt").open("wb") as file:
        assert write_predictions(file, [([row[0] for row in rows], scores)]) == 4
    assert (tmp_path / "out.txt").read_bytes() == PUBLISHED.encode()
    frames = read_predictions(tmp_path / "out.txt")
    assert consensus_of(frames, scratch=tmp_path) == PUBLISHED_CONSENSUS.encode()


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the golden files in ../shared")
@pytest.mark.parametrize("name", ["orfs_vanilla", "fixed500_vanilla"])
def test_golden_tables(name, tmp_path):
    golden = np.load(GOLDEN / f"{name}.npz")
    ids, scores = golden["ids"].tolist(), golden["scores"].astype(np.float32)
    with (tmp_path / "out.txt").open("wb") as file:
        write_predictions(file, [(ids[:1], scores[:1]), (ids[1:], scores[1:])])
    assert (tmp_path / "out.txt").read_bytes() == (GOLDEN / f"{name}_scores.tsv").read_bytes()
    frames = read_predictions(tmp_path / "out.txt")
    assert consensus_of(frames) == (GOLDEN / f"{name}_consensus.tsv").read_bytes()


@pytest.mark.parametrize(
    ("score", "text"),
    [(1e-7, "1e-07"), (1e-4, "1e-04"), (9.9e-5, "9.9e-05"), (1, "1.0"), (0, "0.0"),
     (1e-40, "1e-40"), (0.99999994, "0.99999994"), (0.1, "0.1")],
)  # fmt: skip
def test_scores_are_the_shortest_text_that_is_the_float32(score, text):
    row = format_rows(["aF1"], np.array([[score, 0.5]], np.float32))
    assert row.split("\t")[2] == text


def test_a_tie_is_others_for_a_frame_and_virus_for_a_chunk():
    assert format_rows(["aF1"], np.array([[0.5, 0.5]], np.float32)) == "aF1\tothers\t0.5\t0.5\n"
    assert consensus_of([FrameScore("aF1", 0.5, 0.5)]).endswith(b"a\tTrue\n")


def test_the_best_frame_of_each_class_decides():
    frames = [FrameScore("aF1", 0.9, 0.1), FrameScore("aR1", 0.2, 0.8)]
    assert consensus_of(frames).endswith(b"a\tFalse\n")
    frames = [FrameScore("aF1", 0.7, 0.3), FrameScore("aR1", 0.2, 0.8)]
    assert consensus_of(frames).endswith(b"a\tTrue\n")


def test_a_third_class_stays_out_of_the_table():
    row = format_rows(["aF1"], np.array([[0.2, 0.3, 0.5]], np.float32))
    assert row == "aF1\tvirus\t0.2\t0.3\n"


def test_chunks_are_sorted_as_text():
    frames = [FrameScore(f"{name}F1", 0, 1) for name in ("c_chunk_2", "c_chunk_10", "b", "Z", "é")]
    lines = consensus_of(frames, block=2).decode().splitlines()[1:]
    assert [line.split("\t")[0] for line in lines] == ["Z", "b", "c_chunk_10", "c_chunk_2", "é"]


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\t\n\r", codec="utf-8"), max_size=6),
            st.floats(0, 1, width=32),
            st.floats(0, 1, width=32),
        ),
        max_size=60,
    ),
    st.integers(1, 7),
)
def test_blocks_on_disk_give_what_memory_gives(rows, block):
    chunks = [ChunkScore(*row) for row in rows]
    highest: dict[str, list[float]] = {}
    for name, other, virus in rows:
        kept = highest.setdefault(name, [0.0, 0.0])
        kept[:] = max(kept[0], other), max(kept[1], virus)
    expected = [[name, str(kept[1] >= kept[0])] for name, kept in sorted(highest.items())]
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consensus, "MERGE_FILES", 3)
        write_consensus(file, chunks, block=block)
    table = list(csv.reader(io.StringIO(file.getvalue().decode(), newline=""), delimiter="\t"))
    assert table[1:] == expected


def test_the_sort_holds_one_block_and_leaves_nothing(tmp_path):
    def chunks(count):
        for i in range(count):
            yield ChunkScore(f"contig_{i * 7919 % count}_chunk_1", 0.25, 0.75)

    peaks = []
    for count in (4_000, 40_000):
        tracemalloc.start()
        with (tmp_path / "out").open("wb") as file:
            assert write_consensus(file, chunks(count), tmp_path, block=1_000) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 4 * peaks[0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("text", ["", "Sequence_ID\n", PUBLISHED + "a\tvirus\t0.5\n"])
def test_a_damaged_table_names_file_and_line(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(InputError, match=r"t\.txt, line (1|6)"):
        list(read_predictions(tmp_path / "t.txt"))


def test_ids_and_scores_of_unlike_number_are_refused():
    with pytest.raises(ValueError, match="2 ids"):
        format_rows(["a", "b"], np.zeros((1, 2), np.float32))
