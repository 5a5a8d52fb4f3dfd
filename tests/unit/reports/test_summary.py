from report_data import make_run

from virnucpro.core.records import Status
from virnucpro.reports.summary import MOST_ID_BYTES, summarise
from virnucpro.reports.tables import CallRow, read_call_rows


def call(seq_id="a", p_virus=0.5, name="non-virus", length=500, fdr=None, sample="s"):
    status = Status.CALLED if name else Status.NO_ORF
    return CallRow(
        seq_id, length, 1, 1, status, p_virus, name or None, "mini", sample, 1, 0, 1, fdr
    )


def test_counts_and_bins_cover_every_record(tmp_path):
    calls = make_run(tmp_path, records=300, samples=3) / "calls.tsv"
    summary = summarise(read_call_rows(calls))
    assert summary.records == sum(summary.calls.values()) == sum(summary.statuses.values()) == 300
    assert sum(map(sum, summary.histogram.values())) == summary.scored
    assert sum(summary.grid.values()) == summary.scored
    assert sum(counts.total() for counts in summary.samples.values()) == 300
    assert summary.scored < 300


def test_top_rows_are_the_highest_with_ties_in_input_order():
    rows = [call("low", 0.1), call("x", 0.9), call("none", None, ""), call("y", 0.9)]
    assert [row.seq_id for row in summarise(rows).top] == ["x", "y", "low", "none"]
    assert [row.seq_id for row in summarise(rows, most_rows=2).top] == ["x", "y"]


def test_score_of_one_falls_in_the_last_bin():
    assert summarise([call(p_virus=1.0, name="virus")]).histogram["virus"][-1] == 1


def test_risk_is_the_worst_rank_of_each_sample_weighted_by_its_viral_records():
    rows = [
        call("a", 0.99, "virus", fdr=0.01, sample="s"),
        call("b", 0.95, "virus", fdr=0.02, sample="s"),
        call("c", 0.95, "virus", fdr=0.08, sample="t"),
        call("d", 0.20, "non-virus", fdr=0.6, sample="t"),
    ]
    summary = summarise(rows)
    assert abs(summary.fdr - (2 * 0.02 + 0.08) / 3) < 1e-12
    assert summary.sample_fdr == {"s": 0.02, "t": 0.08}


def test_lengths_span_the_scored_records():
    rows = [call(length=300), call(length=90), call(p_virus=None, name="", length=10)]
    summary = summarise(rows)
    assert (summary.shortest, summary.longest) == (90, 300)
    assert summarise(rows[2:]).longest == 0


def test_no_viral_record_has_no_risk():
    assert summarise([call()]).fdr is None


def test_long_ids_shorten_the_table():
    rows = [call("x" * 1000 + str(i), p_virus=1 - i / 5000) for i in range(2000)]
    top = summarise(rows).top
    assert 1400 < len(top) < MOST_ID_BYTES / 1000
    assert top[0].seq_id.endswith("x0")
