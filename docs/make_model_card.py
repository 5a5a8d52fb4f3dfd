"""Write the tables of docs/model_card.md from benchmarks/results/mini_evaluation.json.

Run `python docs/make_model_card.py` after an evaluation; a test holds the page to the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "mini_evaluation.json"
PAGE = ROOT / "docs" / "model_card.md"
SETS = {
    "dev_known_virus": "known families",
    "dev_novel_virus": "novel families",
    "dev_novel_virus (less)": "novel, less ten records without C",
    "all": "both",
}
SHOWN_NT = 500
FEWEST = 10

Row = dict[str, Any]


def read_rows(path: Path = RESULT) -> tuple[list[Row], dict[int, float]]:
    """The rows of an evaluation, and the calibration error by length."""
    data = json.loads(path.read_text(encoding="utf-8"))
    rows = [dict(zip(data["columns"], values, strict=True)) for values in data["rows"]]
    return rows, {curve["length_nt"]: curve["ece"] for curve in data["reliability"]}


def tables(rows: list[Row], ece: dict[int, float]) -> dict[str, list[str]]:
    """Markdown tables by the name of their mark."""
    return {
        "sets": _sets(rows),
        "calls": _calls(rows, ece),
        "classes": _groups(rows, "class", "class", reverse=True),
        "nulls": _nulls(rows),
        "families": _groups(rows, "family", "family", reverse=False),
        "decoys": _decoys(rows),
    }


def _sets(rows: list[Row]) -> list[str]:
    lines = _head("window", "viral set", "coverage", "AUROC", "AUPRC", "MCC", "recall at 1% FPR",
                  "at 5% FPR", "ECE")  # fmt: skip
    for row in rows:
        if row["level"] == "set" and not row["group"] and row["set_name"] in SETS:
            cells = [f"{row['length_nt']:,} nt", SETS[row["set_name"]], _share(row["coverage"])]
            cells += [f"{row[k]:.3f}" for k in ("auroc", "auprc", "mcc")]
            cells += [_share(row["recall_1"]), _share(row["recall_5"]), f"{row['ece']:.3f}"]
            lines.append(_line(cells))
    return lines


def _calls(rows: list[Row], ece: dict[int, float]) -> list[str]:
    lines = _head("window", "viral: virus", "viral: uncertain", "cellular: virus",
                  "cellular: uncertain", "null: virus", "null: uncertain", "ECE")  # fmt: skip
    for length in sorted(ece):
        cells = [f"{length:,} nt"]
        for group in ("", "cellular", "null"):
            row = next(
                r for r in rows
                if (r["level"], r["set_name"], r["group"], r["length_nt"])
                == ("set", "all", group, length)
            )  # fmt: skip
            cells += [_share(row["virus"]), _share(row["uncertain"])]
        lines.append(_line([*cells, f"{ece[length]:.3f}"]))
    return lines


def _nulls(rows: list[Row]) -> list[str]:
    lines = _head("window", "kind", "sequences", "called virus", "uncertain")
    for row in rows:
        if row["level"] == "null":
            lines.append(
                _line(
                    [
                        f"{row['length_nt']:,} nt",
                        row["group"],
                        str(row["count"]),
                        _share(row["virus"]),
                        _share(row["uncertain"]),
                    ]
                )
            )
    return lines


def _decoys(rows: list[Row]) -> list[str]:
    lines = _head("kind", "sequences", "called virus", "uncertain")
    for row in sorted(rows, key=lambda r: -r["virus"]):
        if row["level"] == "decoy" and row["group"]:
            shares = _share(row["virus"]), _share(row["uncertain"])
            lines.append(_line([row["group"], str(row["count"]), *shares]))
    return lines


def _groups(rows: list[Row], level: str, title: str, reverse: bool) -> list[str]:
    lines = _head(title, "set", "windows", "AUROC", "called virus", "uncertain")
    shown = [r for r in rows if r["level"] == level and r["length_nt"] == SHOWN_NT]
    shown = [r for r in shown if r["count"] >= FEWEST]
    for row in sorted(shown, key=lambda r: r["virus"], reverse=reverse):
        where = SETS.get(row["set_name"], "cellular").split()[0]
        lines.append(
            _line(
                [
                    row["group"],
                    where,
                    str(row["count"]),
                    f"{row['auroc']:.3f}",
                    _share(row["virus"]),
                    _share(row["uncertain"]),
                ]
            )
        )
    return lines


def _share(value: float) -> str:
    return f"{100 * value:.1f}%"


def _head(*names: str) -> list[str]:
    return [_line(list(names)), f"|{'---|' * len(names)}"]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def page_with(found: dict[str, list[str]], page: str) -> str:
    """The page with every table between its two marks."""
    for name, lines in found.items():
        start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
        before, rest = page.split(start)
        page = f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(
        page_with(tables(*read_rows()), PAGE.read_text(encoding="utf-8")), encoding="utf-8"
    )
