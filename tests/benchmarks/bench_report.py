"""Figures against requirements, as rows of the benchmark report."""

from __future__ import annotations


class Figures:
    """Rows of one suite.

    Attributes:
        missed: names of the figures that missed their requirement.
    """

    def __init__(self, suite: str, rows: list[dict]) -> None:
        self.suite, self.rows = suite, rows
        self.missed: list[str] = []

    def note(self, name, value, unit="", better=None):
        """A figure without a requirement."""
        self._add(name, value, unit, better, requirement="", verdict="measured")

    def at_least(self, name, value, limit, unit="", unless=""):
        """A figure that must not be below `limit`.

        Args:
            unless: why the requirement does not apply here; the figure is then only told.
        """
        requirement = f"at least {limit:g} {unit}".strip()
        self._judge(name, value, unit, "higher", requirement, value >= limit, unless)

    def at_most(self, name, value, limit, unit="", unless=""):
        """A figure that must not be above `limit`; see `at_least`."""
        requirement = f"at most {limit:g} {unit}".strip()
        self._judge(name, value, unit, "lower", requirement, value <= limit, unless)

    def failed(self, name, reason):
        """An assertion of the suite that does not hold: a requirement without a figure."""
        row = {"suite": self.suite, "name": name, "value": None, "unit": "", "better": None}
        self.rows.append(row | {"requirement": "holds", "verdict": "missed", "reason": reason})

    def _judge(self, name, value, unit, better, requirement, reached, unless):
        if unless:
            verdict = "not applicable"
        else:
            verdict = "passed" if reached else "missed"
            self.missed += [] if reached else [name]
        self._add(name, value, unit, better, requirement, verdict, unless)

    def _add(self, name, value, unit, better, requirement, verdict, reason=""):
        row = {
            "suite": self.suite,
            "name": name,
            "value": float(f"{value:.6g}"),
            "unit": unit,
            "better": better,
            "requirement": requirement,
            "verdict": verdict,
            "reason": reason,
        }
        self.rows.append(row)
        print(f"{self.suite}: {name}: {row['value']:g} {unit} [{verdict}] {requirement} {reason}")
