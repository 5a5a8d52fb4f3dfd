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
        self._add(name, value, unit, better, "", "measured", "")

    def at_least(self, name, value, limit, unit="", unless=""):
        """A figure that must not be below `limit`; `unless` says why it need not be so here."""
        self._judge(name, value, unit, "higher", f"at least {limit:g}", value >= limit, unless)

    def at_most(self, name, value, limit, unit="", unless=""):
        """A figure that must not be above `limit`; see `at_least`."""
        self._judge(name, value, unit, "lower", f"at most {limit:g}", value <= limit, unless)

    def failed(self, name, reason):
        """An assertion of the suite that does not hold: a requirement without a figure."""
        self._add(name, None, "", None, "holds", "missed", reason)

    def _judge(self, name, value, unit, better, limit, reached, unless):
        verdict = "not applicable" if unless else "passed" if reached else "missed"
        if verdict == "missed":
            self.missed.append(name)
        self._add(name, value, unit, better, f"{limit} {unit}".strip(), verdict, unless)

    def _add(self, name, value, unit, better, requirement, verdict, reason):
        value = None if value is None else float(f"{value:.6g}")
        self.rows.append(
            {
                "suite": self.suite, "name": name, "value": value, "unit": unit, "better": better,
                "requirement": requirement, "verdict": verdict, "reason": reason,
            }
        )  # fmt: skip
        print(f"{self.suite}: {name}: {value} {unit} [{verdict}] {requirement} {reason}")
