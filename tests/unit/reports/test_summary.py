"""What the report shows of calls.tsv and chunks.tsv."""

import pytest
from report_data import make_run

from virnucpro.core.records import Status
from virnucpro.reports.summary import (
    MOST_ID_BYTES,
    MOST_PER_CONTIG,
    choose_tracks,
    read_tracks,
    summarise,
)
from virnucpro.reports.tables import CALL_COLUMNS, CHUNK_COLUMNS, CallRow, ChunkRow, header


def table(path, columns, rows):
    path.write_text(header(columns) + "".join(row.line() for row in rows))
    return path


@pytest.fixture
def summary_of(tmp_path):
    return lambda rows, *more: summarise(table(tmp_path / "calls.tsv", CALL_COLUMNS, rows), *more)


def call(seq_id="a", p_virus=0.5, name="non-virus", length=500, fdr=None, sample="s"):
    status = Status.CALLED if name else Status.NO_ORF
    return CallRow(
        seq_id, length, 1, 1, status, p_virus, name or None, "mini", sample, 1, 0, 1, fdr
    )


def test_counts_and_bins_cover_every_record(tmp_path, summary_of):
    calls = make_run(tmp_path, records=300, samples=3) / "calls.tsv"
    summary = summarise(calls)
    assert summary.records == sum(summary.calls.values()) == sum(summary.statuses.values()) == 300
    assert sum(map(sum, summary.histogram.values())) == summary.scored < 300
    assert sum(summary.grid.values()) == summary.scored
    assert sum(counts.total() for counts in summary.samples.values()) == 300
    assert summary_of([call(p_virus=1.0, name="virus")]).histogram["virus"][-1] == 1
    chosen = choose_tracks(summary.top)
    tracks = read_tracks(calls.with_name("chunks.tsv"), chosen)
    assert len(tracks) == len(chosen) > 10
    assert all(summary.top[track["row"]].chunks > 1 for track in tracks)


def test_top_rows_are_the_highest_with_ties_in_input_order_and_bounded(summary_of, monkeypatch):
    monkeypatch.setattr("virnucpro.reports.summary.BLOCK_ROWS", 2)
    rows = [call("low", 0.1), call("x", 0.9), call("none", None, ""), call("y", 0.9)]
    assert [row.seq_id for row in summary_of(rows).top] == ["x", "y", "low", "none"]
    assert [row.seq_id for row in summary_of(rows, 2).top] == ["x", "y"]
    top = summary_of([call("x" * 1000 + str(i), p_virus=1 - i / 5000) for i in range(2000)]).top
    assert 1400 < len(top) < MOST_ID_BYTES / 1000
    assert top[0].seq_id.endswith("x0")


def test_risk_is_the_worst_rank_of_each_sample_weighted_by_its_viral_records(summary_of):
    rows = [
        call("a", 0.99, "virus", fdr=0.01, sample="s"),
        call("b", 0.95, "virus", fdr=0.02, sample="s"),
        call("c", 0.95, "virus", fdr=0.08, sample="t"),
        call("d", 0.20, "non-virus", fdr=0.6, sample="t"),
    ]
    summary = summary_of(rows)
    assert abs(summary.fdr - (2 * 0.02 + 0.08) / 3) < 1e-12
    assert summary.sample_fdr == {"s": 0.02, "t": 0.08}
    assert summary_of([call()]).fdr is None
    assert (summary.shortest, summary_of([call(p_virus=None, name="")]).longest) == (500, 0)


def test_windows_keep_place_frame_and_what_was_not_scored(tmp_path):
    chunks = [
        ChunkRow("other", 1, 0, 500, "F1", p_virus=0.5),
        ChunkRow("c", 1, 0, 500, "R2", p_virus=0.25),
        ChunkRow("c", 2, 450, 900),
    ]
    (track,) = read_tracks(table(tmp_path / "c.tsv", CHUNK_COLUMNS, chunks), {("", "c"): 3})
    assert (track["row"], track["joined"], track["frames"]) == (3, 1, ["R2", ""])
    assert track["windows"] == [0, 500, 250, 0, 450, 450, -1, 1]
    long = [
        ChunkRow("c", i + 1, i * 500, i * 500 + 500, "F1", p_virus=i / 4000) for i in range(4000)
    ]
    (track,) = read_tracks(table(tmp_path / "c.tsv", CHUNK_COLUMNS, long), {("", "c"): 0})
    windows = track["windows"]
    assert len(windows) <= 4 * MOST_PER_CONTIG
    assert windows[:2] == [0, 500 * track["joined"]] and windows[-2] == 1000
    assert sum(windows[::4]) + windows[-3] == 2_000_000
