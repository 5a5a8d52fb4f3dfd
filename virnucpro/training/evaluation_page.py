"""evaluation.html: the figures of a model as one page that needs no network and no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virnucpro.core.text import percent
from virnucpro.reports import pages
from virnucpro.training.figures import ALL_SETS, Curve, Row
from virnucpro.training.scoring import LENGTH_CLASSES

TEMPLATES = Path(__file__).parent / "templates"
FEW = 20
NONE = "\N{EN DASH}"
LARGEST_DOT, SMALLEST_DOT = 10.0, 2.5
FULL_DOT = 200  # sequences in the largest dot, at least
DOT_KEYS = (20, 200, 2_000, 20_000)


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the page, with the warnings that it needs.

    Attributes:
        row: the figures.
        span: its length, in words.
        has_few: whether fewer than `FEW` sequences are in the group.
        has_few_to_compare: whether AUROC and its like rest on fewer, on either side.
    """

    row: Row
    span: str
    has_few: bool
    has_few_to_compare: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The lines of one length, which the reader can open.

    Attributes:
        span: the length, in words.
        lines: to be shown.
        count: sequences in them.
        is_open: whether the page shows them first, as the length with the most sequences.
    """

    span: str
    lines: list[Line]
    count: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """A reliability curve.

    Attributes:
        span: its length, in words.
        curve: the figures.
        dots: mean p_virus, share of viruses, count and radius of each bin.
        has_few: whether fewer than `FEW` viruses or others are in it.
    """

    span: str
    curve: Curve
    dots: list[tuple[float, float, int, float]]
    has_few: bool


def render(facts: dict[str, Any], rows: Sequence[Row], curves: Sequence[Curve]) -> str:
    """The page.

    Args:
        facts: model, input and draws.
        rows: every figure.
        curves: reliability by length.
    """
    style = f"{pages.asset('report.css')}\n{pages.asset('evaluation.css', TEMPLATES)}"
    environment = pages.environment(TEMPLATES)
    environment.filters |= {"share": share, "figure": figure}
    lines = _lines(facts, rows)
    sets = [line for line in lines if line.row.level == "set" and line.row.group != "null"]
    largest = max([FULL_DOT, *(n for curve in curves for _, _, n in curve.bins)])
    return environment.get_template("evaluation.html").render(
        facts=facts,
        sets=_by_length(sets),
        has_few=any(line.has_few or line.has_few_to_compare for line in lines),
        less=len(facts["left_out"]) if any("(less)" in x.row.set_name for x in sets) else 0,
        plots=_plots(facts, rows, curves, largest),
        keys=[(n, _radius(n, largest)) for n in DOT_KEYS if n <= largest],
        families=_choices(facts, _of_level(lines, "family"), _by_recall),
        classes=_choices(facts, _of_level(lines, "class"), _by_errors),
        nulls=_by_length(_of_level(lines, "null")),
        few=FEW,
        style=Markup(style),
        policy=pages.policy(style),
    )  # fmt: skip


def share(value: float) -> str:
    """A share as a percentage; NaN is a dash.

    >>> share(0.0213), share(float("nan")) == NONE
    ('2.1%', True)
    """
    return NONE if math.isnan(value) else percent(value)


def figure(value: float) -> str:
    """A figure to three digits; NaN is a dash.

    >>> figure(0.98765)
    '0.988'
    """
    return NONE if math.isnan(value) else f"{value:.3f}"


def _lines(facts: dict[str, Any], rows: Sequence[Row]) -> list[Line]:
    """Rows with warnings: a viral row is compared with all cellular ones of its length."""
    viral, cellular = _scored_of("", rows), _scored_of("cellular", rows)
    lines = []
    for row in rows:
        is_viral = row.level == "family" or (row.level == "set" and not row.group)
        others = (cellular if is_viral else viral).get(row.length_nt, 0)
        fewest = min(others, _scored(row))
        span = _span(facts, row.length_nt)
        lines.append(Line(row, span, row.count < FEW, fewest < FEW))
    return lines


def _scored_of(group: str, rows: Sequence[Row]) -> dict[int, int]:
    """Scored sequences by length: viral ones where the group is empty, or `cellular` ones."""
    whole = (row for row in rows if row.level == "set" and row.set_name == ALL_SETS)
    return {row.length_nt: _scored(row) for row in whole if row.group == group}


def _of_level(lines: Iterable[Line], level: str) -> list[Line]:
    return [line for line in lines if line.row.level == level]


def _plots(
    facts: dict[str, Any], rows: Sequence[Row], curves: Sequence[Curve], largest: int
) -> list[Plot]:
    viral, cellular = _scored_of("", rows), _scored_of("cellular", rows)
    plots = []
    for curve in curves:
        dots = [(x, y, n, _radius(n, largest)) for x, y, n in curve.bins]
        fewest = min(side.get(curve.length_nt, 0) for side in (viral, cellular))
        plots.append(Plot(_span(facts, curve.length_nt), curve, dots, fewest < FEW))
    return plots


def _scored(row: Row) -> int:
    return round(row.count * row.coverage)


def _span(facts: dict[str, Any], length_nt: int) -> str:
    """A length in words: of windows, or of a class of whole records."""
    if facts["windows"] is not None:
        return f"{length_nt:,} nt"
    longer = min((n for n in LENGTH_CLASSES if n > length_nt), default=None)
    return f"from {length_nt:,} nt" if longer is None else f"{length_nt:,} to {longer - 1:,} nt"


def _by_length(lines: Iterable[Line]) -> list[list[Line]]:
    return [list(group) for _, group in groupby(lines, key=lambda line: line.row.length_nt)]


def _choices(
    facts: dict[str, Any], lines: Iterable[Line], order: Callable[[Line], tuple[bool, float]]
) -> list[Choice]:
    """One choice a length, in order; the fullest is open, or of several the model's own."""
    groups = [sorted(group, key=order) for group in _by_length(lines)]
    counts = [sum(line.row.count for line in group) for group in groups]

    def preference(number: int) -> tuple[int, float]:
        length = groups[number][0].row.length_nt
        return counts[number], -abs(math.log(length / facts["chunk_nt"]))

    best = max(range(len(groups)), key=preference, default=0)
    return [
        Choice(group[0].span, group, count, number == best)
        for number, (group, count) in enumerate(zip(groups, counts, strict=True))
    ]


def _by_recall(line: Line) -> tuple[bool, float]:
    return line.has_few, line.row.virus


def _by_errors(line: Line) -> tuple[bool, float]:
    return line.has_few, -line.row.virus


def _radius(count: int, largest: int) -> float:
    """Of a dot: the cube root tells both tens and thousands apart."""
    return round(max(SMALLEST_DOT, LARGEST_DOT * math.pow(count / largest, 1 / 3)), 2)
