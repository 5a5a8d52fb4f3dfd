"""The page about a run: what it says, and that nothing of the input becomes markup."""

import html
import json
import re

import pytest
from click.testing import CliRunner
from report_data import HOSTILE, make_run

from virnucpro.cli.info import report
from virnucpro.core.errors import InputError, UsageError
from virnucpro.reports.html import write_report
from virnucpro.reports.summary import MOST_REGIONS
from virnucpro.reports.tables import CallRow, RegionRow


def page_of(folder, **more):
    """The page of a run, with other values in run.json, of mappings besides those there."""
    run = json.loads((folder / "run.json").read_text())
    for name, value in more.items():
        run[name] = {**run[name], **value} if isinstance(run.get(name), dict) else value
    (folder / "run.json").write_text(json.dumps(run))
    return write_report(folder).read_text()


def data_of(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_answer_comes_first_and_every_uncalled_status_is_explained(tmp_path):
    page = page_of(make_run(tmp_path))
    first = re.sub(r"<[^>]+>", "", re.search(r"<h1.*?</h1>", page)[0])
    rows = [line.split("\t") for line in (tmp_path / "calls.tsv").read_text().splitlines()]
    viral = sum(row[6] == "virus" for row in rows)
    assert re.match(rf"{viral} of 200 records are called viral, with about [\d.]+% expected", first)
    assert "About 15.0% (10.0% to 21.0%) of the records" in page
    for status in ("no_orf", "too_short", "ambiguous", "filtered"):
        assert re.search(rf"<code>{status}</code></th><td class=\"num\">\d+</td><td>\w+", page)
    assert "10.1093/bib/bbaf224" in page


def test_nothing_is_loaded_from_elsewhere_and_ids_never_become_markup(tmp_path):
    page = page_of(make_run(tmp_path, records=40, samples=2, hostile=True))
    assert not re.search(r"(?:src|href)=(?!\"#)", page.replace("\\u003cimg src=x", ""))
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML", page)
    outside = page.replace(re.search(r"<script>.*?</script>", page, re.DOTALL)[0], "")
    assert "<script>alert" not in outside and "<img" not in outside and "<!--<" not in outside
    assert page.count("</script>") == 2
    assert set(HOSTILE) <= set(data_of(page)["rows"]["id"])
    calls = tmp_path / "calls.tsv"
    calls.write_bytes(calls.read_bytes().replace(b"NODE_", b"NODE\xff"))
    page = page_of(tmp_path, versions={"torch": "2.10.0<b>"})
    assert "torch 2.10.0&lt;b&gt;" in page and "NODE\\udcff" in page  # bytes that are not UTF-8
    page_of(tmp_path, model={"name": "<b onclick='x()'>"}, version='"><img src=x>')
    graph = (tmp_path / "virnucpro_mqc.json").read_text()
    assert not set("<>") & set(graph) and "onclick='" not in graph
    assert list(json.loads(graph)["data"]) == ["&lt;script&gt;alert(1)&lt;/script&gt;", "sample_2"]


def test_a_page_is_made_of_what_there_is(tmp_path):
    page = page_of(make_run(tmp_path / "short", records=40, lengths=(300, 400)))
    assert data_of(page)["tracks"] == [] and data_of(page)["regions"] == {}
    assert 'id="track-choice"' not in page
    page = page_of(make_run(tmp_path / "none", records=0))
    assert "The input holds no records." in page and "There was nothing to score." in page
    assert "Every record" not in page and "Thresholds" not in page
    with pytest.raises(UsageError, match="no run of this version"):
        page_of(make_run(tmp_path / "odd", records=5), schema={"calls.tsv": 1})
    page = page_of(make_run(tmp_path / "reads", records=300, lengths=(148, 151)))
    assert "Each scored record is 148 to 151 nt long." in page and 'lengths"' not in page


STRICT = {"preset": "conservative", "min_score": 0.9, "max_fdr": 0.05, "only_stricter": True}


@pytest.mark.parametrize(
    ("told", "said", "unsaid"),
    [
        ({}, "Time in all 1 min 23 s", "incomplete"),
        ({"seconds": 0.06}, "Time in all 1 min 23 s", "0.06 s"),  # the stages are an earlier run's
        ({"status": "partial"}, "This run is incomplete", "0.06 s"),
        ({"devices": ["cuda:0", "cuda:1"]}, "Device cuda:0, cuda:1", "Number format"),
        ({"engines": {"dna": "packed float16 sdpa"}}, "Number format float16", "float32"),
        (
            {"calling": STRICT}, "Preset conservative: a record is called viral if its p_virus is "
            "at least 0.9 and passes the model's own limits and its FDR is at most 5%.", "any FDR",
        ),
        ({"calling": STRICT | {"max_fdr": None}}, "Preset conservative, changed: a record", "cuda"),
    ],
)  # fmt: skip
def test_what_run_json_tells_is_said(tmp_path, told, said, unsaid):
    page = page_of(make_run(tmp_path, records=9), **told).split('id="data"')[0]
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())
    assert said in text and unsaid not in text


def test_each_sample_has_its_rate_and_multiqc_its_counts(tmp_path):
    page = page_of(make_run(tmp_path, records=200, samples=2))
    rates = re.findall(r"data-sample=.*?</tr>", page, re.S)
    cells = [re.findall(r'<td class="num">(.*?)</td>', rate)[1] for rate in rates]
    assert len(cells) == 2 and all(re.fullmatch(r"<?[\d.]+%", cell) for cell in cells)
    content = json.loads((tmp_path / "virnucpro_mqc.json").read_text())
    assert list(content["data"]) == ["sample_1", "sample_2"]
    assert sum(sum(counts.values()) for counts in content["data"].values()) == 200
    assert all(set(counts) == set(content["categories"]) for counts in content["data"].values())
    calls = tmp_path / "calls.tsv"
    calls.write_text(
        calls.read_text().replace("\tvirus\tmini\tsample_1", "\tuncertain\tmini\tsample_1")
    )
    summary = json.loads((tmp_path / "run.json").read_text())["sample_summary"]
    summary[0] |= {"virus": 0, "expected_false": None}
    page = page_of(tmp_path, sample_summary=summary)
    assert '<td class="num">0</td><td class="num">\u2013</td>' in page


def test_multiqc_has_columns_of_general_statistics(tmp_path):
    one = {"sample": "<b>a", "records": 8, "scored": 8, "virus": 2, "expected_false": 0.125,
           "compatible_with_none": False, "note": ""}  # fmt: skip
    none = one | {"sample": "b", "records": 0, "virus": 0, "expected_false": None}
    page_of(make_run(tmp_path), sample_summary=[one, none])
    general = json.loads((tmp_path / "virnucpro_general_mqc.json").read_text())
    assert general["data"] == {"&lt;b&gt;a": {"viral": 25, "false": 12.5}, "b": {"viral": 0}}
    assert general["plot_type"] == "generalstats"
    assert [name for column in general["pconfig"] for name in column] == ["viral", "false"]


def test_nothing_is_said_of_a_share_that_few_records_tell_nor_of_calls_that_are_none(tmp_path):
    said = {"sample": "a", "records": 20, "scored": 20, "virus": 1, "prevalence": 0.1, "low": 0.0,
            "high": 0.8, "expected_false": 0.9, "compatible_with_none": True,
            "note": "x"}  # fmt: skip
    for change, shown in (({}, (1, 1, 1)), ({"scored": 19}, (0, 1, 1)), ({"virus": 0}, (1, 1, 0)),
                          ({"virus": 0, "note": ""}, (1, 0, 0))):  # fmt: skip
        page = page_of(make_run(tmp_path), sample_summary=[said | change])
        words = ("Share of viruses</dt>", "such as a sample without any virus", "may all be false")
        assert tuple(text in page for text in words) == shown


def test_pairs_are_counted_as_pairs_and_the_advice_is_the_terminals(tmp_path):
    records = data_of(page_of(make_run(tmp_path)))
    first, *rows = (tmp_path / "calls.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "calls.tsv").write_text(first + "".join(row + f"mate_of_{row}" for row in rows))
    asked = {"inputs": {"paired": False, "interleaved": True}}
    advice = "virnucpro predict 'a b' --max-fdr 0.05"
    (told,) = json.loads((tmp_path / "run.json").read_text())["sample_summary"]
    told |= {"virus": 18, "sure": 6, "note": "x"}
    page = page_of(tmp_path, parameters=asked, advice=advice, sample_summary=[told])
    data, viral = data_of(page), records["curve"][-1][1]
    assert re.search(rf">{viral}</b> of 200 pairs are called viral", page)
    assert all(data[k] == records[k] for k in ("curve", "histogram")) and data["unit"] == "pair"
    assert sum(cell[-1] for cell in data["grid"]) == 2 * sum(cell[-1] for cell in records["grid"])
    graph = json.loads((tmp_path / "virnucpro_mqc.json").read_text())["data"]["sample_1"]
    assert (graph["virus"], sum(graph.values())) == (2 * viral, 400)  # in records
    assert "About 15.0% (10.0% to 21.0%) of the pairs" in page
    shown = re.search(r'(3 of 9 viral pairs): <code id="(\w+)">(.*?)</code> <button .*"\2"', page)
    assert html.unescape(shown[3]) == advice
    del told["sure"]  # as in runs of an earlier version
    assert "To keep what is sure: <code" in page_of(tmp_path, sample_summary=[told])


def test_the_command_rebuilds_the_same_page(tmp_path):
    first = write_report(make_run(tmp_path)).read_bytes()
    (tmp_path / "report.html").unlink()
    result = CliRunner().invoke(report, [str(tmp_path)])
    assert result.output.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == first


@pytest.mark.parametrize("name", ["calls.tsv", "chunks.tsv", "regions.tsv"])
def test_a_damaged_table_is_named_and_a_missing_run_refused(tmp_path, name):
    with pytest.raises(UsageError, match="holds no run"):
        write_report(tmp_path)
    make_run(tmp_path, records=40)
    with (tmp_path / name).open("a") as file:
        file.write("a\t5\n")
    with pytest.raises(InputError, match=rf"{name}, line \d+: 2 fields"):
        write_report(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(run | {"parameters": None}))
    with pytest.raises(UsageError, match="damaged or not ours"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_proviruses_are_told_first_listed_by_their_evidence_and_can_be_copied(tmp_path):
    page = page_of(make_run(tmp_path, records=2_000))
    data, regions = data_of(page), RegionRow.read(tmp_path / "regions.tsv")
    inside = sorted((row for row in regions if row.is_inside), key=lambda r: -r.log_odds)
    assert len(inside) > 100
    assert f'<b class="region">{len(inside):,}</b> more hold a' in page
    listed = [(data["rows"]["id"][found["row"]], found["logOdds"]) for found in data["found"]]
    assert listed == [(row.seq_id, row.log_odds) for row in inside[:MOST_REGIONS]]
    assert page.count("data-region=") == 100 and data["tracks"]
    assert data["regionFasta"]["0"].startswith(f">{inside[0].seq_id}|viral_region_1\nACGT")


def test_each_limit_keeps_the_calls_that_the_flag_keeps(tmp_path):
    data = data_of(page_of(make_run(tmp_path, records=900, samples=2)))
    viral = [row for row in CallRow.read(tmp_path / "calls.tsv") if row.call == "virus"]
    for place, kept, false in data["curve"]:
        own = [row for row in viral if row.fdr <= data["limits"][place]]
        by_sample = [[r.fdr for r in own if r.sample == name] for name in data["samples"]]
        assert kept == len(own)
        assert abs(false - sum(len(f) * max(f, default=0) for f in by_sample)) < 1e-6
        in_table = zip(data["rows"]["call"], data["rows"]["limit"], strict=True)
        assert sum(call == 0 and limit <= place for call, limit in in_table) == kept
    assert data["curve"][-1][1] == len(viral)
    assert data["again"] == ["virnucpro predict sample_1 sample_2 --resume --max-fdr ", ""]


def test_sequences_of_the_surest_can_be_copied_while_the_page_is_small(tmp_path, monkeypatch):
    data = data_of(page_of(make_run(tmp_path, records=300)))
    viral = [i for i, call in enumerate(data["rows"]["call"]) if call == 0]
    assert sorted(map(int, data["fasta"])) == viral
    for i in viral:
        header, *letters = data["fasta"][str(i)].split()
        assert header == f">{data['rows']['id'][i]}"
        assert len("".join(letters)) == data["rows"]["length"][i] // 4 * 4
    monkeypatch.setattr("virnucpro.reports.html.MOST_LETTERS", 100_000)
    fewer = data_of(page_of(tmp_path))
    assert 0 < len(fewer["fasta"]) < len(viral)
    texts = [*fewer["fasta"].values(), *fewer["regionFasta"].values()]
    assert sum(len(text) for text in texts) < 110_000  # headers and line ends, too
