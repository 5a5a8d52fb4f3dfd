"""report.html in a real browser: no errors, filter, sorting, tracks, hostile ids."""

import pytest
from browser import Browser, missing
from report_data import HOSTILE, make_run

from virnucpro.reports.html import write_report

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

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
    }


@pytest.fixture
def table(browser, pages):
    browser.open(pages["plain"])
    browser.wait(SHOWN)
    return browser


FOUND = "return document.getElementById('found').textContent"


def choose(browser, field, value, event="change"):
    browser.run(
        f"const c = document.getElementById('{field}'); c.value = '{value}';"
        f"c.dispatchEvent(new Event('{event}'))"
    )


def column(browser, title):
    return browser.run(
        "const heads = [...document.querySelectorAll('#records th')];"
        f"const at = heads.findIndex(h => h.textContent.startsWith('{title}'));"
        "return [...document.querySelectorAll('#records tbody tr')]"
        ".map(r => r.cells[at].textContent)"
    )


@pytest.mark.parametrize("name", ["plain", "hostile", "empty"])
@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_loads_without_console_errors_or_sideways_scrolling(browser, pages, name, width, dark):
    browser.open(pages[name], width=width, dark=dark)
    assert browser.console() == []
    sideways = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
    assert browser.run(sideways) == 0
    shown = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (shown == "rgb(20, 24, 27)") == dark


def test_charts_are_drawn_and_all_is_reached_by_keyboard_in_both_themes(table):
    for chart in ("histogram", "lengths", "viral-lengths", "track", "curve"):
        kinds = "[class*=fill-], .mark, text"
        marks = f"return document.querySelectorAll('#{chart} :is({kinds})').length"
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
    choose(table, "call", "0")
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
    assert lengths() == sorted(lengths())


def test_the_slider_takes_calls_back_in_the_table_and_shows_the_command(table):
    virus = "return [...document.querySelectorAll('#call option')].map(o => o.textContent)"
    assert table.run(virus)[-1] == "with a viral region"
    choose(table, "call", "0")
    choose(table, "limit", "0", "input")
    place, kept, _ = table.run("return DATA.curve[0]")
    assert table.run(FOUND) == f"{kept} of 180 records"
    said = table.run("return document.getElementById('limit-note').textContent")
    assert f"{kept} of " in said and "viral records kept" in said
    limit = table.run(f"return DATA.limits[{place}]")
    command = table.run("return document.getElementById('again').textContent")
    assert command.endswith(f"--resume --max-fdr {limit}")
    choose(table, "call", "2")
    assert table.run("return document.querySelector('td.word[title*=slider]') !== null")


def test_a_listed_region_opens_its_track_and_is_copied(table):
    origin = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    table.cdp("Browser.grantPermissions", origin)
    name = table.run("return document.querySelector('#regions [data-row]').textContent")
    table.click("#regions [data-row]")
    chosen = "return document.getElementById('track-choice').selectedOptions[0].textContent"
    assert table.run(chosen).startswith(name)
    table.click("#regions [data-region]")
    table.wait("return document.querySelector('#regions [data-region]').textContent == 'Copied'")
    script = "navigator.clipboard.readText().then(t => { window.copied = t; })"
    table.run(script)
    assert table.wait("return window.copied").startswith(f">{name}|viral_region_1\n")


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
