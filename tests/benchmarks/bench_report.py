"""Figures against requirements, as rows of the benchmark report."""


class Figures:
    """Rows of one suite, and the names of those that missed their requirement."""

    def __init__(self, suite, rows):
        self.suite, self.rows, self.missed = suite, rows, []

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
        self.missed += [name] if verdict == "missed" else []
        self._add(name, value, unit, better, f"{limit} {unit}".strip(), verdict, unless)

    def _add(self, name, value, unit, better, requirement, verdict, reason):
        value = None if value is None else float(f"{value:.6g}")
        row = {"suite": self.suite, "name": name, "value": value, "unit": unit, "better": better,
               "requirement": requirement, "verdict": verdict, "reason": reason}  # fmt: skip
        self.rows.append(row)
        print(f"{self.suite}: {name}: {value} {unit} [{verdict}] {requirement} {reason}")
