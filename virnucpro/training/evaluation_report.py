"""An evaluation as TSV, as JSON and as one HTML page that needs no network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from virnucpro.core.errors import OutputError
from virnucpro.core.files import atomic_write
from virnucpro.training.evaluation_page import render
from virnucpro.training.figures import Curve, Row

FILES = ("evaluation.tsv", "evaluation.json", "evaluation.html")


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        facts: model, input and draws.
        rows: every figure.
        curves: reliability by length.
    """

    facts: dict[str, Any]
    rows: list[Row]
    curves: list[Curve]

    def write(self, folder: Path) -> list[Path]:
        """Write all three files into `folder`, which is made if need be; returns their paths.

        Raises:
            OutputError: they cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
        table, data, page = (folder / name for name in FILES)
        with atomic_write(table, "w") as file:
            file.write("\t".join(f.name for f in fields(Row)) + "\n")
            file.writelines(_line(row) for row in self.rows)
        with atomic_write(data, "w") as file:
            file.write(_json(self.as_dict()))
        with atomic_write(page, "w") as file:
            file.write(render(self.facts, self.rows, self.curves))
        return [table, data, page]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; numbers to five digits, rows as lists."""
        return {
            **self.facts,
            "columns": [f.name for f in fields(Row)],
            "rows": [[_rounded(v) for v in row.as_dict().values()] for row in self.rows],
            "reliability": [
                {k: _rounded(v) for k, v in asdict(curve).items()} for curve in self.curves
            ],
        }

    def headline(self) -> list[Row]:
        """The rows of whole sets, by length."""
        return [row for row in self.rows if row.level == "set"]


def _json(value: dict[str, Any]) -> str:
    """JSON with one line for each field, and for each entry of a list of lists or mappings."""
    parts = []
    for name, part in value.items():
        text = json.dumps(part)
        if isinstance(part, list) and part and isinstance(part[0], list | dict):
            text = "[\n" + ",\n".join(json.dumps(entry) for entry in part) + "\n]"
        parts.append(f"{json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _line(row: Row) -> str:
    values = ("" if v is None else _rounded(v) for v in row.as_dict().values())
    return "\t".join(str(v) for v in values) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_rounded(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value
