"""An evaluation as TSV, as JSON and as one HTML page that needs no network and no script."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virnucpro.core.files import atomic_write, make_writable
from virnucpro.core.text import percent
from virnucpro.reports import pages
from virnucpro.training.figures import ALL_SETS, Curve, Row

FILES = ("evaluation.tsv", "evaluation.json", "evaluation.html")
TEMPLATES = Path(__file__).parent / "templates"
LENGTH_CLASSES = (60, 150, 300, 500, 1000, 3000, 10_000)  # of whole records, from so many nt on
FEW = 20
NONE = "\N{EN DASH}"
LARGEST_DOT, SMALLEST_DOT = 10.0, 2.5
FULL_DOT = 200  # sequences in the largest dot, at least
DOT_KEYS = (20, 200, 2_000, 20_000)


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found."""

    facts: dict[str, Any]  # model, input and draws
    rows: list[Row]
    curves: list[Curve]

    def write(self, folder: Path) -> list[Path]:
        """Write all three files into `folder`, which is made if need be; returns their paths."""
        make_writable(folder)
        names = [field.name for field in fields(Row)]
        rows = [[_plain(getattr(row, name)) for name in names] for row in self.rows]
        shown = [["" if value is None else str(value) for value in row] for row in rows]
        curves = [{k: _plain(v) for k, v in asdict(curve).items()} for curve in self.curves]
        whole = {**self.facts, "columns": names, "rows": rows, "reliability": curves}
        texts = (
            "".join("\t".join(line) + "\n" for line in [names, *shown]),
            "{\n" + ",\n".join(f"{json.dumps(k)}: {_json(v)}" for k, v in whole.items()) + "\n}\n",
            render(self.facts, self.rows, self.curves),
        )
        paths = [folder / name for name in FILES]
        for path, text in zip(paths, texts, strict=True):
            with atomic_write(path, "w") as file:
                file.write(text)
        return paths


def _plain(value: Any) -> Any:
    """What JSON takes: numbers to five digits, None for NaN."""
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 5)
    return value


def _json(value: Any) -> str:
    """JSON on one line, or with a line for each entry of a list of lists or mappings."""
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
    return json.dumps(value)


def render(facts: dict[str, Any], rows: Sequence[Row], curves: Sequence[Curve]) -> str:
    """The page of a report with these facts, rows and curves."""
    scored = {  # sequences with a score, by length and side
        (row.length_nt, row.group): round(row.count * row.coverage)
        for row in rows
        if row.level == "set" and row.set_name == ALL_SETS
    }

    def is_thin(row: Row) -> bool:
        """Whether AUROC and its like rest on few sequences, on either side."""
        is_viral = row.level == "family" or (row.level == "set" and not row.group)
        others = scored.get((row.length_nt, "cellular" if is_viral else ""), 0)
        return min(others, round(row.count * row.coverage)) < FEW

    def span(length_nt: int) -> str:
        """A length in words: of windows, or of a class of whole records."""
        if facts["windows"] is not None:
            return f"{length_nt:,} nt"
        longer = min((n for n in LENGTH_CLASSES if n > length_nt), default=None)
        return f"from {length_nt:,} nt" if longer is None else f"{length_nt:,} to {longer - 1:,} nt"

    def choices(level: str, sign: int) -> list[tuple[int, int, list[Row]]]:
        """Length, sequences and rows of each length; the groups of few sequences stand last."""
        groups = _by_length(row for row in rows if row.level == level)
        for group in groups:
            group.sort(key=lambda row: (row.count < FEW, sign * row.virus))
        return [(group[0].length_nt, sum(row.count for row in group), group) for group in groups]

    def opened(choices: list[tuple[int, int, list[Row]]]) -> int:
        """The length with the most sequences, of several the model's own."""
        chunk_nt = facts["chunk_nt"]
        return max(choices, key=lambda c: (c[1], -abs(math.log(c[0] / chunk_nt))))[0]

    largest = max([FULL_DOT, *(n for curve in curves for _, _, n in curve.bins)])

    def radius(count: int) -> float:
        """Of a dot: the cube root tells both tens and thousands apart."""
        return round(max(SMALLEST_DOT, LARGEST_DOT * math.pow(count / largest, 1 / 3)), 2)

    style = f"{pages.asset('report.css')}\n{pages.asset('evaluation.css', TEMPLATES)}"
    environment = pages.environment(TEMPLATES)
    environment.filters |= {
        "share": lambda value: NONE if math.isnan(value) else percent(value),
        "figure": lambda value: NONE if math.isnan(value) else f"{value:.3f}",
        "span": span,
        "radius": radius,
        "opened": opened,
    }
    sets = [row for row in rows if row.level == "set" and row.group != "null"]
    return environment.get_template("evaluation.html").render(
        facts=facts,
        sets=_by_length(sets),
        has_few=any(row.count < FEW or (row.level != "decoy" and is_thin(row)) for row in rows),
        less=len(facts["left_out"]) if any("(less)" in row.set_name for row in sets) else 0,
        curves=curves,
        scored=scored,
        is_thin=is_thin,
        keys=[n for n in DOT_KEYS if n <= largest],
        families=choices("family", 1),
        classes=choices("class", -1),
        nulls=_by_length(row for row in rows if row.level == "null"),
        decoys=[row for row in rows if row.level == "decoy"],
        few=FEW,
        style=Markup(style),
        policy=pages.policy(style),
    )  # fmt: skip


def _by_length(rows: Iterable[Row]) -> list[list[Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: row.length_nt)]
