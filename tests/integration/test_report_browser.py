"""report.html in a real browser: no errors, filter, sorting, tracks, hostile ids."""

import pytest
from browser import Browser, missing
from report_data import HOSTILE, make_run

from virnucpro.reports.html import write_report
from virnucpro.training.evaluation_page import render
from virnucpro.training.figures import Curve, Row

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

DASH = "\u2013"
SHOWN = (
    "return [...document.querySelectorAll('#records tbody tr')].map(r => r.cells[0].textContent)"
)


@pytest.fixture(scope="module")
def browser():
    with Browser() as window:
        yield window


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        "plain": write_report(make_run(folder / "plain", records=180, samples=3)),
        "hostile": write_report(make_run(folder / "hostile", records=40, samples=2, hostile=True)),
        "empty": write_report(make_run(folder / "empty", records=0)),
        "evaluation": write_evaluation(folder / "evaluation.html"),
    }


def write_evaluation(path):
    facts = {"model": "m", "model_digest": "0" * 64, "chunk_nt": 500, "files": ["a.fa"],
             "windows": None, "left_out": [], "sequences": 90}  # fmt: skip
    shares = {"coverage": 1.0, "virus": 0.5, "uncertain": 0.3, "non_virus": 0.2, "mean_p": 0.5}
    groups = [("set", ""), ("family", HOSTILE[0]), ("class", "bacteria")]
    rows = [
        Row(length_nt=length, level=level, set_name="all", group=group, count=length, **shares)
        for length in (300, 500) for level, group in groups
    ]  # fmt: skip
    curves = [Curve(300, 0.1, ((0.1, 0.2, 30), (0.9, 0.8, 300)))]
    path.write_text(render(facts, rows, curves))
    return path


@pytest.fixture
def table(browser, pages):
    browser.open(pages["plain"])
    browser.wait(SHOWN)
    return browser


FOUND = "return document.getElementById('found').textContent"


def column(browser, title):
    return browser.run(
        "const heads = [...document.querySelectorAll('#records th')];"
        f"const at = heads.findIndex(h => h.textContent.startsWith('{title}'));"
        "return [...document.querySelectorAll('#records tbody tr')]"
        ".map(r => r.cells[at].textContent)"
    )


@pytest.mark.parametrize("name", ["plain", "hostile", "empty", "evaluation"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_loads_without_console_errors_or_sideways_scrolling(browser, pages, name, width, dark):
    browser.open(pages[name], width=width, dark=dark)
    assert browser.console() == []
    sideways = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert browser.run(sideways) == 0
    shown = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (shown == "rgb(20, 24, 27)") == dark


def test_charts_are_drawn_and_all_is_reached_by_keyboard_in_both_themes(table):
    for chart in ("histogram", "lengths", "track"):
        marks = f"return document.querySelectorAll('#{chart} [class*=fill-]').length"
        assert table.run(marks) > 3, chart
    mouse_only = (
        "return [...document.querySelectorAll('#records th button, #records td button, nav button,"
        " select, input, #theme')].filter(e => e.tabIndex < 0).length"
    )
    assert table.run(mouse_only) == 0
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = table.run(colour)
    table.click("#theme")
    assert table.run(colour) != before


def test_search_calls_and_samples_filter_rows(table):
    table.type("#search", "node_17")
    table.wait(f"{FOUND}.includes(' of ')")
    ids = table.run(SHOWN)
    assert ids and all("node_17" in name.lower() for name in ids)
    assert table.run(FOUND) == f"{len(ids)} of 180 records"
    table.click("#filters button[type=reset]")
    table.wait(f"{FOUND} === '180 records'")
    table.run(
        "const c = document.getElementById('call'); c.value = '0';"
        "c.dispatchEvent(new Event('change'))"
    )
    assert {call for call in column(table, "Call")} == {"virus"}
    table.click("[data-sample='1']")
    assert set(column(table, "Sample")) == {"sample_2"}


def test_a_click_on_a_header_sorts_and_a_second_turns_round(table):
    def lengths():
        return [int(text.replace(",", "")) for text in column(table, "Length")]

    table.click("[data-sort=length]")
    down = lengths()
    assert down == sorted(down, reverse=True) and len(set(down)) > 10
    table.click("[data-sort=length]")
    up = lengths()
    assert up == sorted(up) and up[0] < down[-1]
    sorted_by = "return document.querySelector('[aria-sort]').textContent"
    assert table.run(sorted_by) == "Length (nt)"


def test_pages_turn_to_records_without_a_score(table):
    first = table.run(SHOWN)
    table.click("#after")
    second = table.run(SHOWN)
    assert len(first) == len(second) == 50 and not set(first) & set(second)
    table.click("#last")
    assert len(table.run(SHOWN)) == 30
    rows = "return [...document.querySelectorAll('#records tbody tr')].map(r => r.innerText)"
    silent = [row for row in table.run(rows) if "ambiguous" in row or "too_short" in row]
    assert silent and all("0 : 0" not in row and row.count(DASH) >= 3 for row in silent)


def test_a_row_opens_its_track(table):
    name = table.run(
        "const b = [...document.querySelectorAll('#records tbody button')][2];"
        "const id = b.closest('tr').cells[0].textContent; b.click(); return id"
    )
    chosen = "return document.getElementById('track-choice').selectedOptions[0].textContent"
    assert table.run(chosen).startswith(f"{name} · sample_")


def test_hostile_ids_are_shown_as_they_are_and_do_nothing(browser, pages):
    browser.open(pages["hostile"])
    ids = browser.wait(SHOWN)
    assert set(HOSTILE) <= set(ids)
    assert browser.run("return document.scripts.length") == 2
    assert browser.run("return document.images.length") == 0
    browser.type("#search", "<script>")
    browser.wait(f"{FOUND}.includes(' of ')")
    assert browser.run(SHOWN)
    assert browser.console() == []


def test_an_evaluation_opens_one_length_at_a_time(browser, pages):
    browser.open(pages["evaluation"])
    opened = (
        "return [...document.querySelectorAll('details[name=families][open] summary')]"
        ".map(s => s.firstChild.textContent)"
    )
    assert browser.run(opened) == ["500 to 999 nt"]
    browser.click("details[name=families]:not([open]) summary")
    assert browser.run(opened) == ["300 to 499 nt"]
