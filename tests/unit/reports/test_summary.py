"""What the report shows of calls.tsv and chunks.tsv."""

import pytest

from virnucpro.core.records import Status
from virnucpro.reports.summary import (
    MOST_ID_BYTES,
    summarise,
)
from virnucpro.reports.tables import CALL_COLUMNS, CallRow, header


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
