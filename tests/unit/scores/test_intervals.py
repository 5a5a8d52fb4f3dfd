"""Viral stretches inside contigs."""

from __future__ import annotations

import math

from virnucpro.scores.intervals import ScoredWindow, viral_stretches


def track(*scores, step=500):
    return [ScoredWindow(step * i, step * (i + 1), p) for i, p in enumerate(scores)]


def spans(stretches):
    return [(found.start // 500, found.end // 500) for found in stretches]


def test_neighbours_merge_and_one_opposing_chunk_is_bridged_but_not_two():
    found = viral_stretches(track(0.9, 0.9, 0.2, 0.9, 0.1, 0.1, 0.9, 0.1), is_virus=True)
    assert spans(found) == [(0, 4), (6, 7)]
    assert [(s.supporting, s.opposing) for s in found] == [(3, 1), (1, 0)]
    assert math.isclose(found[0].mean_p, (0.9 * 3 + 0.2) / 4)


def test_ends_are_viral_chunks():
    assert spans(viral_stretches(track(0.1, 0.9, 0.1), is_virus=True)) == [(1, 2)]


def test_unscored_chunks_do_not_break_a_stretch():
    windows = [ScoredWindow(0, 500, 0.9), ScoredWindow(5_000, 5_500, 0.9)]
    assert spans(viral_stretches(windows, is_virus=True)) == [(0, 11)]


def test_a_host_contig_needs_evidence_that_grows_with_its_length():
    island = [0.95] * 3  # log-odds 2.94 each
    assert 3 * math.log(19) < math.log(1_000 / 0.05) < 4 * math.log(19)
    short, long = track(*[0.05] * 20, *island), track(*[0.05] * 997, *island)
    assert spans(viral_stretches(short, is_virus=False)) == [(20, 23)]
    assert viral_stretches(long, is_virus=False) == []
    assert len(viral_stretches(track(*[0.05] * 996, *island, 0.95), is_virus=False)) == 1


def test_a_bridged_chunk_counts_against_its_stretch():
    assert viral_stretches(track(0.9, 0.0, 0.9), is_virus=False) == []
    assert len(viral_stretches(track(0.9, 0.9, 0.9), is_virus=False)) == 1


def test_no_chunks_no_stretch():
    assert viral_stretches([], is_virus=True) == []
    assert viral_stretches(track(0.5, 0.5), is_virus=True) == []
