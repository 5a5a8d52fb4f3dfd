from dataclasses import replace

from report_data import make_run

from virnucpro.core.records import Status
from virnucpro.reports.summary import summarise
from virnucpro.reports.tables import (
    CallRow,
    ChunkRow,
    read_call_rows,
    read_chunk_rows,
    read_region_rows,
)
from virnucpro.reports.tracks import MOST_PER_CONTIG, choose, read_tracks


def contig(seq_id, chunks, name, supporting=0, opposing=0):
    return CallRow(
        seq_id, chunks * 500, chunks, chunks, Status.CALLED, 0.5, name, "mini",
        chunks_scored=chunks, supporting=supporting, opposing=opposing,
    )  # fmt: skip


def test_viral_contigs_come_first_then_mixed_ones():
    rows = [
        contig("plain", 10, "non-virus", 0, 10),
        contig("mixed", 10, "non-virus", 4, 6),
        contig("viral", 10, "virus", 10, 0),
        contig("single", 1, "virus", 1, 0),
    ]
    assert list(choose(rows, most_chunks=20)) == [("", "viral"), ("", "mixed")]
    assert ("", "single") not in choose(rows)


def test_windows_keep_place_frame_and_what_was_not_scored():
    chunks = [
        ChunkRow("other", 1, 0, 500, "F1", p_virus=0.5),
        ChunkRow("c", 1, 0, 500, "R2", p_virus=0.25),
        ChunkRow("c", 2, 450, 900),
    ]
    (track,) = read_tracks(chunks, {("", "c"): 3})
    assert (track.row, track.joined) == (3, 1)
    assert track.windows == [(0, 500, 250, "R2"), (450, 900, -1, "")]


def test_contigs_of_one_name_keep_their_own_tracks():
    rows = [replace(contig("c", 2, "virus"), sample=name) for name in ("a", "b")]
    chunks = [
        ChunkRow("c", number, 0, 500, "F1", p_virus=p, sample=name)
        for name, p in (("a", 0.25), ("b", 0.75))
        for number in (1, 2)
    ]
    tracks = read_tracks(chunks, choose(rows))
    assert [[window[2] for window in track.windows] for track in tracks] == [[250] * 2, [750] * 2]


def test_a_very_long_contig_is_drawn_in_wider_windows_with_their_highest_score():
    chunks = [
        ChunkRow("c", i + 1, i * 500, i * 500 + 500, "F1", p_virus=i / 4000) for i in range(4000)
    ]
    (track,) = read_tracks(chunks, {("", "c"): 0})
    assert len(track.windows) <= MOST_PER_CONTIG
    assert track.windows[0][:2] == (0, 500 * track.joined)
    assert track.windows[-1][1:3] == (2_000_000, 1000)


def test_tracks_and_regions_of_a_run_belong_to_rows_shown(tmp_path):
    folder = make_run(tmp_path, records=300)
    top = summarise(read_call_rows(folder / "calls.tsv")).top
    chosen = choose(top)
    tracks = read_tracks(read_chunk_rows(folder / "chunks.tsv"), chosen)
    assert len(tracks) == len(chosen) > 10
    shown = [row for row in read_region_rows(folder / "regions.tsv") if row[0] in chosen]
    assert shown and all(top[chosen[key]].call == "virus" for key, _, _ in shown)
