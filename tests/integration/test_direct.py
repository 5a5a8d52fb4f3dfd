"""Calls in memory equal the staged path's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from virnucpro.core.records import Record
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.direct import BLOCK_RECORDS, DirectScorer, record_blocks
from virnucpro.reports.tables import read_call_rows
from virnucpro.sequences.fasta import read_records


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, random_dna):
    path = tmp_path_factory.mktemp("input") / "contigs.fa"
    lengths = [100, 499, 501, 1700, 90, 61]
    entries = [f">c{i}\n{random_dna(n, i)}\n" for i, n in enumerate(lengths)]
    entries += [">copy\n" + random_dna(1700, 3) + "\n", ">short\nACGT\n", f">n\n{'N' * 99}\n"]
    path.write_text("".join(entries))
    return path


@pytest.mark.parametrize(("policy", "engine"), [("longest", "packed"), ("open-frame", "padded")])
def test_the_same_rows_as_the_staged_path(predict, fasta, tmp_path, tiny_home, policy, engine):
    assert predict(fasta, "-o", tmp_path / "out", policy=policy).exit_code == 0
    staged = list(read_call_rows(tmp_path / "out" / "calls.tsv"))
    model = resolve_model("500", None, tiny_home)
    model = replace(model, orf_policy=replace(model.orf_policy, name=policy))
    direct = list(DirectScorer(model, "cpu", engine).score(read_records([fasta])))
    assert [(r.seq_id, r.length, r.chunks, r.status, r.call) for r in direct] == [
        (r.seq_id, r.length, r.chunks, r.status, r.call) for r in staged
    ]
    for row, other in zip(direct, staged, strict=True):
        assert row.p_virus == pytest.approx(other.p_virus, abs=1e-5)
    assert sum(row.p_virus is not None for row in direct) >= 1


def test_nothing_to_score_gives_rows_without_scores(tiny_home):
    model = resolve_model("500", None, tiny_home)
    rows = list(DirectScorer(model).score([Record("a", "a", "AC"), Record("b", "b", "")]))
    assert [(row.seq_id, row.p_virus, row.call) for row in rows] == [
        ("a", None, None),
        ("b", None, None),
    ]


def test_blocks_hold_every_record_once_and_stay_small():
    records = [Record(str(i), "", "A" * (600_000 if i % 7 == 0 else 1)) for i in range(5_000)]
    blocks = list(record_blocks(records))
    assert [record.seq_id for block in blocks for record in block] == [r.seq_id for r in records]
    assert max(map(len, blocks)) <= BLOCK_RECORDS
    assert max(sum(len(r.sequence) for r in block) for block in blocks) < 2 << 20
