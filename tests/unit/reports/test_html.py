import html
import json
import re

import pytest
from click.testing import CliRunner
from report_data import HOSTILE, make_run

from virnucpro.cli.report import report
from virnucpro.core.errors import InputError, UsageError
from virnucpro.reports.html import write_report
from virnucpro.reports.summary import MOST_ROWS


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_answer_comes_first(tmp_path):
    page = write_report(make_run(tmp_path)).read_text()
    first = re.sub(r"<[^>]+>", "", re.search(r"<h1.*?</h1>", page)[0])
    rows = [line.split("\t") for line in (tmp_path / "calls.tsv").read_text().splitlines()]
    viral = sum(row[6] == "virus" for row in rows)
    assert re.match(rf"{viral} of 200 records are called viral, with about [\d.]+% expected", first)


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = write_report(make_run(tmp_path)).read_text()
    assert not re.search(r"(?:src|href)=(?!\"#)", page)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML", page)


def test_ids_never_become_markup(tmp_path):
    page = write_report(make_run(tmp_path, records=40, samples=2, hostile=True)).read_text()
    outside = page.replace(re.search(r"<script>.*?</script>", page, re.DOTALL)[0], "")
    assert "<script>alert" not in outside and "<img" not in outside and "<!--<" not in outside
    assert page.count("</script>") == 2
    assert set(HOSTILE) <= set(data_of(page)["rows"]["id"])


def test_bytes_that_are_not_utf8_survive(tmp_path):
    make_run(tmp_path, records=5)
    calls = tmp_path / "calls.tsv"
    calls.write_bytes(calls.read_bytes().replace(b"NODE_1_", b"NODE\xff1_"))
    assert "NODE\\udcff1_" in write_report(tmp_path).read_text(errors="surrogateescape")


@pytest.mark.slow
def test_hundred_thousand_records_stay_small_and_say_what_is_shown(tmp_path):
    path = write_report(make_run(tmp_path, records=100_000, samples=4))
    assert path.stat().st_size < 3_000_000
    page = path.read_text()
    assert "20,000 records with the highest scores, of 100,000" in page
    rows = data_of(page)["rows"]
    assert len(rows["id"]) == MOST_ROWS
    assert rows["p"] == sorted(rows["p"], reverse=True)


def test_without_chunks_and_regions_there_is_still_a_page(tmp_path):
    make_run(tmp_path)
    (tmp_path / "chunks.tsv").unlink()
    (tmp_path / "regions.tsv").unlink()
    page = write_report(tmp_path).read_text()
    assert data_of(page)["tracks"] == [] and data_of(page)["regions"] == {}
    assert 'id="track-choice"' not in page


def test_an_empty_table_makes_a_page(tmp_path):
    make_run(tmp_path, records=0)
    page = write_report(tmp_path).read_text()
    assert "The input holds no records." in page and "There was nothing to score." in page
    assert "Every record" not in page and "Thresholds" not in page


def test_an_incomplete_run_says_so(tmp_path):
    make_run(tmp_path, records=20)
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | {"status": "partial"}))
    assert "This run is incomplete" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    ("calling", "said"),
    [
        ({}, "A record is called viral if its p_virus passes the model's own limits, at any FDR."),
        (
            {"preset": "conservative", "min_score": 0.9, "max_fdr": 0.05, "only_stricter": True},
            "Preset conservative: a record is called viral if its p_virus is at least 0.9 and "
            "passes the model's own limits and its FDR is at most 5%.",
        ),
        (
            {"preset": "relaxed", "min_score": 0.6},
            "Preset relaxed, changed: a record is called viral if its p_virus is at least 0.6, "
            "at any FDR.",
        ),
        ({"preset": "<b>", "max_fdr": "x"}, "Preset <b>, changed: a record is called viral"),
    ],
)
def test_the_answer_names_the_thresholds(tmp_path, calling, said):
    run = json.loads((make_run(tmp_path, records=9) / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | {"calling": {**run["calling"], **calling}}))
    answer = re.search(
        r'<section id="answer".*?</section>', write_report(tmp_path).read_text(), re.S
    )
    assert html.escape(said).replace("&#x27;", "&#39;") in answer[0]


def test_a_run_that_does_not_tell_its_thresholds_has_none(tmp_path):
    make_run(tmp_path, records=9)
    assert "Thresholds" not in facts_of(tmp_path, calling=None)


def test_uncertain_records_are_explained_at_the_charts(tmp_path):
    page = write_report(make_run(tmp_path, records=400)).read_text()
    counts = data_of(page)["histogram"]["uncertain"]
    below, above = sum(counts[:25]), sum(counts[25:])
    charts = re.search(r'aria-label="Distributions".*?</section>', page, re.S)[0]
    assert below and f"<b>{below}</b> uncertain below 0.5: unlike anything" in charts
    assert above and f"<b>{above}</b> uncertain from 0.5 on: short of" in charts


@pytest.mark.parametrize(
    ("lengths", "said"), [((150, 150), "150"), ((148, 151), "148 to 151"), ((100, 150), None)]
)
def test_reads_of_one_length_have_no_chart_of_lengths(tmp_path, lengths, said):
    page = write_report(make_run(tmp_path, records=300, lengths=lengths)).read_text()
    assert ('id="lengths"' in page) == (said is None)
    assert (f"Each scored record is {said} nt long." in page) == (said is not None)


def test_every_uncalled_status_is_explained(tmp_path):
    page = write_report(make_run(tmp_path)).read_text()
    for status in ("no_orf", "too_short", "ambiguous", "filtered"):
        assert re.search(rf"<code>{status}</code></th><td class=\"num\">\d+</td><td>\w+", page)


def test_figures_of_the_run_are_rates_and_shares(tmp_path):
    page = write_report(make_run(tmp_path)).read_text()
    assert re.search(r"Protein encoder</th><td class=\"num\">42 s</td>.*?[\d,]+ tokens/s", page)
    assert "10.1093/bib/bbaf224" in page


def test_a_short_stage_has_no_rate(tmp_path):
    run = json.loads((make_run(tmp_path) / "run.json").read_text())
    page = write_report(tmp_path).read_text()
    assert "ORFs/s" not in page and "stages of under 30 s" in page
    run["stages"] = {name: {**facts, "seconds": 6.6} for name, facts in run["stages"].items()}
    (tmp_path / "run.json").write_text(json.dumps(run))
    page = write_report(tmp_path).read_text()
    assert "tokens/s" not in page and ">Rate<" not in page
    assert "Times include the start of libraries" in page


def test_counts_are_words_and_zeros_are_left_out(tmp_path):
    stages = {"translation": {"seconds": 1, "orfs": 1, "chunks_with_orf": 2000, "failed": 0}}
    facts_of(make_run(tmp_path, records=1), stages=stages)
    assert ">1 ORF, 2,000 chunks with an ORF<" in (tmp_path / "report.html").read_text()


def test_tables_made_again_keep_the_time_of_the_scores(tmp_path):
    make_run(tmp_path, records=5)
    assert facts_of(tmp_path)["Time in all"] == "1 min 23 s"
    assert "made again" not in (tmp_path / "report.html").read_text()
    assert facts_of(tmp_path, seconds=0.06)["Time in all"] == "1 min 23 s"
    assert "made again, in 0.06 s, from the scores" in (tmp_path / "report.html").read_text()


def test_files_of_an_earlier_start_are_told(tmp_path):
    make_run(tmp_path, records=5)
    facts_of(tmp_path, stages={"dna_features": {"seconds": 2.0, "files": 3, "kept": 3}})
    assert "kept from an earlier start" in (tmp_path / "report.html").read_text()


def facts_of(folder, **more):
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | more))
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", write_report(folder).read_text()))


def test_numbers_and_devices_are_those_that_ran(tmp_path):
    make_run(tmp_path, records=5)
    asked = facts_of(tmp_path)
    assert asked["Device"] == "cpu" and "Number format" not in asked
    engines = {"dna": "packed float16 varlen", "protein": "padded float32 sdpa", "odd": "x"}
    ran = facts_of(tmp_path, engines=engines, devices=["cuda:0", "cuda:1"])
    assert ran["Number format"] == "float16, float32"
    assert ran["Engines"].startswith("dna: packed float16 varlen; protein: padded")
    assert ran["Device"] == "cuda:0, cuda:1"


def test_versions_are_shown_and_escaped(tmp_path):
    make_run(tmp_path, records=5)
    assert facts_of(tmp_path)["Version"] == "VirNucPro 2.0.0, Python 3.11.8"
    versions = {"python": "3.12.1", "torch": "2.10.0<b>"}
    shown = facts_of(tmp_path, versions=versions)["Version"]
    assert shown == "VirNucPro 2.0.0, python 3.12.1, torch 2.10.0&lt;b&gt;"


def test_each_sample_has_its_rate(tmp_path):
    page = write_report(make_run(tmp_path, records=200, samples=2)).read_text()
    rates = re.findall(r"data-sample=.*?</tr>", page, re.S)
    cells = [re.findall(r'<td class="num">(.*?)</td>', rate)[1] for rate in rates]
    assert len(cells) == 2 and all(re.fullmatch(r"<?[\d.]+%", cell) for cell in cells)
    lines = [line.split("\t") for line in (tmp_path / "calls.tsv").read_text().splitlines()]
    for line in lines:
        line[6] = line[6].replace("virus", "uncertain") if line[8] == "sample_1" else line[6]
    (tmp_path / "calls.tsv").write_text("".join("\t".join(line) + "\n" for line in lines))
    page = write_report(tmp_path).read_text()
    assert (
        ">sample_1</button>" in page and '<td class="num">0</td><td class="num">\u2013</td>' in page
    )


def test_multiqc_gets_counts_per_sample(tmp_path):
    write_report(make_run(tmp_path, records=90, samples=3))
    content = json.loads((tmp_path / "virnucpro_mqc.json").read_text())
    assert list(content["data"]) == ["sample_1", "sample_2", "sample_3"]
    assert sum(sum(counts.values()) for counts in content["data"].values()) == 90
    assert all(set(counts) == set(content["categories"]) for counts in content["data"].values())


def test_the_command_rebuilds_the_same_page(tmp_path):
    first = write_report(make_run(tmp_path)).read_bytes()
    (tmp_path / "report.html").unlink()
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert result.output.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == first


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no run"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["calls.tsv", "chunks.tsv", "regions.tsv"])
def test_a_damaged_table_is_named(tmp_path, name):
    make_run(tmp_path, records=1)
    with (tmp_path / name).open("a") as file:
        file.write("a\t5\n")
    with pytest.raises(InputError, match=rf"{name}, line \d+: 2 fields"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
