"""No record changes the call of another one, whatever it holds."""

import pytest

from fuzz.alone import compare


@pytest.mark.parametrize(("records", "stub"), [(600, True), (24, False)], ids=["stub", "bundled"])
def test_a_record_has_the_same_call_alone_and_among_others(records, stub):
    found = compare(records, 200, stub)
    assert found["findings"] == []
    assert sum(found["statuses"].values()) == records
    assert not stub or {"called", "too_short", "not_dna", "ambiguous"} <= set(found["statuses"])
