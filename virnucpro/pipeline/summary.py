"""What a run says at its end: a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

CALLS = ("virus", "non-virus", "uncertain")


def summary_lines(output_dir: Path, data: Mapping[str, Any]) -> list[str]:
    """The answer, what was not called and why, the time, and what to open.

    Args:
        output_dir: of the run.
        data: its run.json.
    """
    stages = data["stages"]
    tables, scoring = stages.get("tables", {}), stages.get("scoring", {})
    calls = ", ".join(f"{tables.get(f'call:{name}', 0):,} {name}" for name in CALLS)
    lines = [f"{tables.get('records', 0):,} records: {calls}{_false_share(data)}"]
    silent = {
        name.removeprefix("status:"): count
        for name, count in scoring.items()
        if name.startswith("status:") and name != "status:called"
    }
    if silent:
        reasons = ", ".join(f"{count:,} {status}" for status, count in silent.items())
        lines.append(f"Without a call: {sum(silent.values()):,} ({reasons})")
    if data.get("status") == "partial":
        lines.append(f"Incomplete: see {output_dir / 'failed_files.txt'}; --resume tries again")
    seconds = timedelta(seconds=int(data.get("seconds", 0.0)))
    names = [name for name in ("report.html", "calls.tsv") if (output_dir / name).exists()]
    lines.append(f"Done in {seconds}: {', '.join(str(output_dir / name) for name in names)}")
    return lines


def _false_share(data: Mapping[str, Any]) -> str:
    """How many of the viral records are expected to be false, over all samples."""
    rated = [
        (sample["virus"], sample["fdr"])
        for sample in data.get("sample_summary", [])
        if sample.get("virus") and sample.get("fdr") is not None
    ]
    viral = sum(count for count, _ in rated)
    if not viral:
        return ""
    share = sum(count * fdr for count, fdr in rated) / viral
    return f"; about {100 * share:.1f}% of the viral ones expected to be false"
