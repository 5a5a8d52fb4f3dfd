"""report.html: one self-contained page about a run, and a summary for MultiQC beside it.

The page needs no network. Its table and charts come from one block of JSON that the page's own
script reads; ids and paths from the input never become markup, and the page's security policy
lets no other script run.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virnucpro.core.files import atomic_write, write_json
from virnucpro.core.text import size
from virnucpro.reports import citations, explain, pages
from virnucpro.reports.summary import (
    CALLS,
    LENGTH_BINS_PER_DECADE,
    SCORE_BINS,
    Summary,
    choose_tracks,
    read_tracks,
    summarise,
)
from virnucpro.reports.tables import read_region_rows

SCRIPTS = ("page.js", "charts.js", "track.js", "table.js")
REPORT_FILES = ("report.html", "virnucpro_mqc.json")
SCORE_UNIT = 100_000
MOST_SAMPLES = 400
# Reads of about one length make a column, not a chart of length against score.
ONE_LENGTH = 1.25
# Name in MultiQC's data and colour, by call.
MULTIQC = {
    "virus": ("virus", "#b4472f"), "uncertain": ("uncertain", "#c9a03a"),
    "non-virus": ("non_virus", "#6f93ab"), "": ("not_called", "#b8bcc2"),
}  # fmt: skip


def write_report(output_dir: Path) -> Path:
    """Write report.html and virnucpro_mqc.json from what a run left in `output_dir`.

    It holds run.json and calls.tsv; chunks.tsv and regions.tsv, where they are still there, give
    the position tracks. Returns the path of report.html.

    Raises:
        UsageError: there is no run.
        InputError: calls.tsv is missing, or a table is damaged.
        OutputError: the report cannot be written.
    """
    run = explain.read_run(output_dir)
    summary = summarise(output_dir / "calls.tsv")
    page, graph = (output_dir / name for name in REPORT_FILES)
    text = _page(run, summary, _data(run, summary, output_dir))
    with atomic_write(page, "w") as file:
        file.write(text)
    write_json(graph, _multiqc(run, summary))
    return page


def _page(run: dict[str, Any], summary: Summary, data: dict[str, Any]) -> str:
    calling = explain.part(run, "calling")
    inputs = [entry for entry in run.get("inputs", []) if isinstance(entry, dict)]
    names = [Path(str(entry.get("path", ""))).name for entry in inputs]
    ranked = sorted(summary.samples.items(), key=lambda item: -item[1]["virus"])
    uncertain, half = summary.histogram["uncertain"], SCORE_BINS // 2
    model = str(explain.part(run, "model").get("name", "?"))
    style = pages.asset("report.css")
    script = "'use strict';\n" + "\n".join(pages.asset(name) for name in SCRIPTS)
    # JSON that cannot end the element it stands in
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    text = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return pages.environment().get_template("report.html").render(
        run=run,
        model=model,
        summary=summary,
        title=names[0] if len(names) == 1 else f"{len(names)} files" if names else "",
        thresholds=explain.thresholds(calling) if calling else "",
        facts=explain.facts(run),
        inputs=[
            (str(entry.get("path", "")), size(entry.get("bytes", 0)), str(entry.get("sha256", "")))
            for entry in inputs
        ],
        stages=explain.stages(run),
        rated_seconds=explain.RATED_SECONDS,
        history=explain.history(run),
        uncertain=(sum(uncertain[:half]), sum(uncertain[half:])),
        has_lengths=summary.longest > ONE_LENGTH * summary.shortest,
        samples=ranked[:MOST_SAMPLES],
        hidden=len(ranked[MOST_SAMPLES:]),
        numbers=data["samples"],
        references=citations.references(model),
        has_tracks=bool(data["tracks"]),
        style=Markup(style),
        script=Markup(script),
        policy=pages.policy(style, script),
        data=Markup(text),
    )  # fmt: skip


def _data(run: dict[str, Any], summary: Summary, output_dir: Path) -> dict[str, Any]:
    """What the page's script reads: rows as one list a column, figures, tracks and regions.

    Numbers are -1 where there is none.
    """
    rows, samples, statuses = summary.top, list(summary.samples), list(summary.statuses)
    places = [{name: at for at, name in enumerate(names)} for names in (samples, statuses, CALLS)]
    sample_of, status_of, call_of = places
    chosen = choose_tracks(rows)
    chunks, table = output_dir / "chunks.tsv", output_dir / "regions.tsv"
    tracks = read_tracks(chunks, chosen) if chosen and chunks.exists() else []
    regions: dict[int, list[tuple[int, int]]] = {}
    for key, start, end in read_region_rows(table) if table.exists() else ():
        if key in chosen:
            regions.setdefault(chosen[key], []).append((start, end))
    return {
        "samples": samples,
        "statuses": statuses,
        "rows": {
            "id": [row.seq_id for row in rows],
            "sample": [sample_of[row.sample] for row in rows],
            "length": [row.length for row in rows],
            "chunks": [row.chunks for row in rows],
            "scored": [row.chunks_scored for row in rows],
            "supporting": [row.supporting for row in rows],
            "opposing": [row.opposing for row in rows],
            "p": [_scaled(row.p_virus) for row in rows],
            "fdr": [_scaled(row.fdr) for row in rows],
            "call": [call_of.get(row.call or "", len(CALLS) - 1) for row in rows],
            "status": [status_of[str(row.status)] for row in rows],
            "hint": {place: row.class_hint for place, row in enumerate(rows) if row.class_hint},
        },
        "calls": CALLS,
        "histogram": summary.histogram,
        "grid": [[*cell, count] for cell, count in sorted(summary.grid.items())],
        "perDecade": LENGTH_BINS_PER_DECADE,
        "minScore": explain.number(explain.part(run, "calling").get("min_score")),
        "tracks": tracks,
        "regions": regions,
    }


def _scaled(value: float | None) -> int:
    return -1 if value is None else round(value * SCORE_UNIT)


def _multiqc(run: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """A stacked bar graph of calls per sample, which MultiQC finds by the name of its file.

    MultiQC puts what it reads into its page as it is, so that markup in names is escaped here.
    """
    model, version = explain.part(run, "model").get("name", ""), run.get("version", "")
    return {
        "id": "virnucpro_calls",
        "section_name": "VirNucPro",
        "description": escape(f"Records by call, VirNucPro {version}, model {model}."),
        "plot_type": "bargraph",
        "pconfig": {"id": "virnucpro_calls_plot", "title": "VirNucPro: calls", "ylab": "Records"},
        "categories": {
            name: {"name": call or "not called", "color": color}
            for call, (name, color) in MULTIQC.items()
        },
        "data": {
            escape(sample) or "all": {name: counts[call] for call, (name, _) in MULTIQC.items()}
            for sample, counts in summary.samples.items()
        },
    }
