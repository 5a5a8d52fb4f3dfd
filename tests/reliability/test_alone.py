"""A record alone is called as among others; the campaign that looks for it sees what goes wrong."""

from dataclasses import replace

import pytest

from fuzz import alone
from virnucpro.core.errors import InputError


def campaign(predictor, records=40):
    found = alone.campaign(predictor, records, per_run=120, whole_every=40)
    return found, found["first_findings"]


@pytest.mark.parametrize(("records", "is_stub"), [(240, True), (24, False)], ids=["stub", "mini"])
def test_a_record_is_called_alone_as_among_others(records, is_stub):
    found, findings = campaign(alone.Predictor(is_stub), records)
    assert findings == []
    assert found["records"] == records
    statuses = ("called", "too_short", "ambiguous", "not_dna")
    assert not is_stub or all(found[f"status_{name}"] for name in statuses)


def moved(rows):
    return [*rows[1:], rows[0]]


def without_calls(rows):
    return [*rows[:5], *(replace(row, status="no_orf", p_virus=None) for row in rows[5:])]


def drifting(rows):
    return [replace(r, p_virus=r.p_virus and r.p_virus + 2e-6 * i) for i, r in enumerate(rows)]


@pytest.mark.parametrize(
    "fault",
    [
        lambda rows: rows[:-1],
        lambda rows: [replace(row, length=row.length - 1) for row in rows],
        lambda rows: [replace(row, orfs=row.orfs + len(rows)) for row in rows],
        moved, without_calls, drifting,
    ],
    ids=["lost", "letters", "counts", "moved", "calls", "scores"],
)  # fmt: skip
def test_a_wrong_table_is_found(monkeypatch, fault):
    predictor = alone.Predictor(is_stub=True)
    whole = predictor.whole
    monkeypatch.setattr(predictor, "whole", lambda *run: fault(whole(*run)))
    assert campaign(predictor)[1]


def test_an_input_that_is_not_refused_is_found(monkeypatch):
    predictor = alone.Predictor(is_stub=True)
    whole = predictor.whole

    def lenient(*run):
        try:
            return whole(*run)
        except InputError:
            return []

    monkeypatch.setattr(predictor, "whole", lenient)
    assert any("not refused" in finding for finding in campaign(predictor)[1])
