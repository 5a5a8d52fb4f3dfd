"""Write the figures of docs/performance.md from benchmarks/results/*.json.

Run `python docs/make_performance.py` after a benchmark; a test holds the page to the files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
START, END = "<!-- figures: start -->", "<!-- figures: end -->"
MOST_COLUMNS = 9
HEADS = ("about", "unit", "machine", "command", "commit", "title", "date")


def figures(results: Path = RESULTS) -> str:
    """Every result file as a section, in the order of the file names."""
    sections = [section(path) for path in sorted(results.glob("*.json"))]
    return "\n".join(text for text in sections if text)


def section(path: Path) -> str:
    """One result file: where and how it was measured, then each list of rows as a table."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict):
        return ""
    tables = [(name, as_rows(value)) for name, value in data.items() if name not in HEADS]
    tables = [(name, rows) for name, rows in tables if rows]
    if not tables:
        return ""
    lines = [f"## {data.get('title', path.stem.replace('_', ' ').capitalize())}", ""]
    for name, title in (("about", ""), ("unit", "Unit: "), ("machine", "Machine: ")):
        if data.get(name):
            lines += [f"{title}{words(data[name])}", ""]
    if "command" in data:
        lines += [f"Made by `{data['command']}`, kept in `benchmarks/results/{path.name}`.", ""]
    for name, rows in tables:
        if len(tables) > 1:
            lines += [f"### {name.replace('_', ' ').capitalize()}", ""]
        lines += [*table(rows), ""]
    return "\n".join(lines)


def as_rows(value: Any) -> list[dict[str, Any]]:
    """A list of mappings, or a mapping of names to mappings, as rows; else none."""
    if isinstance(value, dict):
        value = [{"case": name, **row} for name, row in value.items() if isinstance(row, dict)]
    is_table = isinstance(value, list) and all(isinstance(row, dict) for row in value)
    return value if is_table else []


def table(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table of the plain values of the rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    plain = [n for n in names if not any(isinstance(row.get(n), (dict, list)) for row in rows)]
    shown = plain[:MOST_COLUMNS]
    head = " | ".join(name.replace("_", " ") for name in shown)
    body = [f"| {' | '.join(words(row.get(name, '')) for name in shown)} |" for row in rows]
    return [f"| {head} |", f"|{'---|' * len(shown)}", *body]


def words(value: Any) -> str:
    """A value as a reader wants it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {words(part)}" for name, part in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def page_with(text: str, page: str) -> str:
    """The page with the figures between its two marks."""
    before, rest = page.split(START)
    return f"{before}{START}\n{text}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(figures(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
