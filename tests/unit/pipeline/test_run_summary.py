from virnucpro.pipeline.run import summary_lines
from virnucpro.reports.explain import advice

DATA = {
    "status": "done",
    "seconds": 75.2,
    "stages": {
        "scoring": {"seconds": 1, "status:called": 26, "status:too_short": 1, "status:no_orf": 3},
        "tables": {"records": 30, "call:virus": 12, "call:non-virus": 13, "call:uncertain": 1},
    },
    "sample_summary": [
        {"sample": "a", "virus": 10, "expected_false": 0.01},
        {"sample": "b", "virus": 2, "expected_false": 0.07},
        {"sample": "c", "virus": 0, "expected_false": None},
    ],
}


def test_the_answer_the_silent_records_and_what_to_open(tmp_path):
    (tmp_path / "calls.tsv").touch()
    assert summary_lines(tmp_path, DATA) == [
        "30 records: 12 virus, 13 non-virus, 1 uncertain; "
        "about 2.0% of the viral ones expected to be false",
        "Not scored: 4 (1 too_short, 3 no_orf)",
        f"Done in 0:01:15: {tmp_path / 'calls.tsv'}",
    ]


def test_samples_that_hold_false_ones_are_named_with_what_helps(tmp_path):
    note = "compatible with no virus at all"
    noted = [{"sample": f"s{i}", "virus": 0, "note": note if i else ""} for i in range(9)]
    command = advice(["x/virnucpro", "-v", "predict", "a.fa", "--resume", "-o", "out dir"])
    lines = summary_lines(tmp_path, DATA | {"sample_summary": noted, "advice": command})
    assert lines[1:-2] == [
        *(f"s{i}: {note}" for i in range(1, 6)),
        "and 3 samples more, see run.json",
        "To take back what is not sure: "
        "virnucpro -v predict a.fa -o 'out dir' --resume --max-fdr 0.05",
    ]


def test_an_incomplete_run_names_the_reasons(tmp_path):
    lines = summary_lines(tmp_path, DATA | {"status": "partial"})
    assert any("failed_files.txt" in line and "--resume" in line for line in lines)
