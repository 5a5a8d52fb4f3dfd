"""evaluation.html: what is open, what is grey, and how numbers and dots are drawn."""

import html
import re

import pytest

from virnucpro.training.evaluation import render
from virnucpro.training.figures import Row

FACTS = {
    "model": "m", "model_digest": "0" * 64, "chunk_nt": 500, "files": ["a.fa"],
    "windows": {"lengths": [500, 1000], "count": 9, "null_count": 0, "seed": 0}, "left_out": [],
    "sequences": 4000,
}  # fmt: skip


def row(level="set", group="", count=2000, length=500, set_name="all"):
    return Row(
        length_nt=length, level=level, set_name=set_name, group=group, count=count, coverage=1.0,
        virus=0.9, uncertain=0.0, non_virus=0.1, mean_p=0.5, auroc=0.97,
    )  # fmt: skip


BOTH = [row(), row(group="cellular")]


def cells_of(page, name):
    """Texts of a row, and whether each is grey."""
    line = re.search(rf"<tr>(?:(?!</tr>).)*<th[^>]*>{name}</th>.*?</tr>", page, re.DOTALL)[0]
    return {text: "few" in kind for kind, text in re.findall(r"<td([^>]*)>([^<]+)</td>", line)}


@pytest.mark.parametrize(("short", "long", "shown"), [(30, 40, "1,000 nt"), (40, 40, "500 nt")])
def test_the_length_with_most_sequences_is_open_else_the_models_own(short, long, shown):
    page = render(FACTS, [row("family", "A", short, 500), row("family", "A", long, 1000)], [])
    assert re.findall(r"<details[^>]* open><summary>([^<]+)<", page) == [shown]
    assert page.count("<details") == 2


def test_figures_of_few_sequences_are_grey_and_stand_last():
    page = render(FACTS, [*BOTH, row("family", "A", 19), row("family", "B", 20)], [])
    assert cells_of(page, "A") == {
        "all": False, "19": True, "90.0%": True, "0%": True, "0.970": True, "100%": True
    }  # fmt: skip
    assert not any(cells_of(page, "B").values()) and "fewer than 20 sequences" in page
    assert page.index(">B</th>") < page.index(">A</th>")
    assert "Grey figures" not in render(FACTS, [*BOTH, row("family", "B", 20)], [])


def test_nothing_may_run_or_be_loaded():
    page = html.unescape(render(FACTS, BOTH, []))
    assert "default-src 'none'; style-src 'sha256-" in page
    assert "unsafe-inline" not in page and "script" not in page
    assert not re.search(r"(?:src|href|style)=|url\(|@import", page)
