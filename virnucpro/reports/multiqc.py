"""Counts per sample as custom content that MultiQC picks up by the name of the file."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from virnucpro.core.files import write_json
from virnucpro.reports.summary import Summary

COLORS = {
    "virus": "#b4472f", "uncertain": "#c9a03a", "non_virus": "#6f93ab", "not_called": "#b8bcc2",
}  # fmt: skip


def write_multiqc(path: Path, summary: Summary, run: dict[str, Any]) -> None:
    """Write a stacked bar graph of calls per sample.

    MultiQC puts what it reads into its page as it is, so that markup in names is escaped here.
    """
    model, version = (run.get("model") or {}).get("name", ""), run.get("version", "")
    data = {
        escape(sample) or "all": {
            "virus": counts["virus"],
            "uncertain": counts["uncertain"],
            "non_virus": counts["non-virus"],
            "not_called": counts[""],
        }
        for sample, counts in summary.samples.items()
    }
    write_json(
        path,
        {
            "id": "virnucpro_calls",
            "section_name": "VirNucPro",
            "description": escape(f"Records by call, VirNucPro {version}, model {model}."),
            "plot_type": "bargraph",
            "pconfig": {
                "id": "virnucpro_calls_plot",
                "title": "VirNucPro: calls",
                "ylab": "Records",
            },
            "categories": {
                name: {"name": name.replace("_", "-" if name == "non_virus" else " "), "color": c}
                for name, c in COLORS.items()
            },
            "data": data,
        },
    )
