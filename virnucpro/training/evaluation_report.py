"""An evaluation as TSV, as JSON and as one HTML page that needs no network."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from virnucpro.core.errors import OutputError
from virnucpro.core.files import atomic_write
from virnucpro.training.figures import ALL_SETS, Curve, Row

TEMPLATES = Path(__file__).parent / "templates"
FILES = ("evaluation.tsv", "evaluation.json", "evaluation.html")
MIN_FAMILY = 10


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
            file.write(self._page())
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

    def _page(self) -> str:
        environment = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters |= {"share": percent, "figure": figure}
        length = self._shown_length()
        at = [row for row in self.rows if row.length_nt == length]
        families = [r for r in at if r.level == "family"]
        return environment.get_template("evaluation.html").render(
            facts=self.facts,
            sets=[r for r in self.headline() if r.group != "null"],
            curves=self.curves,
            shown_nt=length,
            families=sorted(families, key=lambda r: (r.count < MIN_FAMILY, r.virus)),
            few=MIN_FAMILY,
            classes=sorted((r for r in at if r.level == "class"), key=lambda r: -r.virus),
            nulls=[r for r in self.rows if r.level == "null"],
            all_sets=ALL_SETS,
        )

    def _shown_length(self) -> int:
        """The length whose families and classes the page shows: the model's chunk, or nearest."""
        lengths = sorted({row.length_nt for row in self.rows})
        return min(lengths, key=lambda n: abs(math.log(n / self.facts["chunk_nt"])))


def percent(share: float) -> str:
    """A share as a percentage; NaN is a dash.

    >>> percent(0.0213), percent(float("nan"))
    ('2.1%', '-')
    """
    return "-" if math.isnan(share) else f"{100 * share:.1f}%"


def figure(value: float) -> str:
    """A figure to three digits; NaN is a dash.

    >>> figure(0.98765), figure(float("nan"))
    ('0.988', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3f}"


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
