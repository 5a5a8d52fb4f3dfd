"""report.html: one self-contained page about a run, and a summary for MultiQC beside it.

The page needs no network. Its table and charts come from one block of JSON that the page's own
script reads; ids and paths from the input never become markup, and the page's security policy
lets no other script run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virnucpro.core.files import atomic_write
from virnucpro.reports import citations, explain, figures, pages
from virnucpro.reports.multiqc import write_multiqc
from virnucpro.reports.summary import CALLS, LENGTH_BINS_PER_DECADE, Summary, summarise
from virnucpro.reports.tables import (
    read_call_rows,
    read_chunk_rows,
    read_region_rows,
)
from virnucpro.reports.tracks import Chosen, Track, choose, read_tracks

SCRIPTS = ("page.js", "charts.js", "track.js", "table.js")
REPORT_FILES = ("report.html", "virnucpro_mqc.json")
SCORE_UNIT = 100_000
MOST_SAMPLES = 400
# Reads of about one length make a column, not a chart of length against score.
ONE_LENGTH = 1.25


def write_report(output_dir: Path) -> Path:
    """Write report.html and virnucpro_mqc.json from what a run left in `output_dir`.

    Args:
        output_dir: holds run.json and calls.tsv; chunks.tsv and regions.tsv, where they are
            still there, give the position tracks.

    Returns:
        The path of report.html.

    Raises:
        UsageError: there is no run.
        InputError: calls.tsv is missing, or a table is damaged.
        OutputError: the report cannot be written.
    """
    run = figures.read_run(output_dir)
    summary = summarise(read_call_rows(output_dir / "calls.tsv"))
    chosen = choose(summary.top)
    chunks, regions = output_dir / "chunks.tsv", output_dir / "regions.tsv"
    tracks = read_tracks(read_chunk_rows(chunks) if chunks.exists() else (), chosen)
    data = {
        **_columns(summary),
        "calls": CALLS,
        "histogram": summary.histogram,
        "grid": [[*cell, count] for cell, count in sorted(summary.grid.items())],
        "perDecade": LENGTH_BINS_PER_DECADE,
        "minScore": explain.number(_calling(run).get("min_score")),
        "tracks": [_track(track) for track in tracks],
        "regions": _regions(regions, chosen),
    }
    path, summary_path = (output_dir / name for name in REPORT_FILES)
    with atomic_write(path, "w") as file:
        file.write(_page(run, summary, data))
    write_multiqc(summary_path, summary, run)
    return path


def _page(run: dict[str, Any], summary: Summary, data: dict[str, Any]) -> str:
    style = pages.asset("report.css")
    script = "'use strict';\n" + "\n".join(pages.asset(name) for name in SCRIPTS)
    return pages.environment().get_template("report.html").render(
        run=run,
        summary=summary,
        answer=_answer(run, summary),
        facts=figures.facts(run),
        inputs=figures.inputs(run),
        stages=figures.stages(run),
        rated_seconds=figures.RATED_SECONDS,
        history=figures.history(run),
        uncertain=explain.uncertain(summary.histogram["uncertain"]),
        has_lengths=summary.longest > ONE_LENGTH * summary.shortest,
        statuses=_statuses(summary),
        samples=_samples(summary),
        references=citations.references(str((run.get("model") or {}).get("name", ""))),
        has_tracks=bool(data["tracks"]),
        style=Markup(style),
        script=Markup(script),
        policy=pages.policy(style, script),
        data=Markup(_json(data)),
    )  # fmt: skip


def _columns(summary: Summary) -> dict[str, Any]:
    """The rows shown, one list a column; numbers are -1 where there is none."""
    rows = summary.top
    samples = list(summary.samples)
    sample_of = {name: number for number, name in enumerate(samples)}
    statuses = list(summary.statuses)
    status_of = {name: number for number, name in enumerate(statuses)}
    call_of = {name: number for number, name in enumerate(CALLS)}
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
            "hint": {number: row.class_hint for number, row in enumerate(rows) if row.class_hint},
        },
    }


def _scaled(value: float | None) -> int:
    return -1 if value is None else round(value * SCORE_UNIT)


def _regions(path: Path, chosen: Chosen) -> dict[int, list[tuple[int, int]]]:
    """Viral stretches of the chosen contigs, by the place of their row."""
    regions: dict[int, list[tuple[int, int]]] = {}
    for key, start, end in read_region_rows(path) if path.exists() else ():
        if key in chosen:
            regions.setdefault(chosen[key], []).append((start, end))
    return regions


def _track(track: Track) -> dict[str, Any]:
    """A track as flat numbers: starts as differences, since windows follow each other."""
    frames: list[str] = []
    flat: list[int] = []
    before = 0
    for start, end, score, frame in track.windows:
        if frame not in frames:
            frames.append(frame)
        flat += [start - before, end - start, score, frames.index(frame)]
        before = start
    return {"row": track.row, "joined": track.joined, "frames": frames, "windows": flat}


def _answer(run: dict[str, Any], summary: Summary) -> dict[str, Any]:
    """What the first lines of the page say."""
    records = summary.records
    parts = [
        {"call": name or "none", "title": name or "not called", "count": summary.calls[name],
         "share": summary.calls[name] / records if records else 0.0}
        for name in ("virus", "uncertain", "non-virus", "")
    ]  # fmt: skip
    inputs = [Path(str(entry.get("path", ""))).name for entry in run.get("inputs", [])]
    title = inputs[0] if len(inputs) == 1 else f"{len(inputs)} files"
    return {
        "parts": parts,
        "title": title if inputs else "",
        "partial": run.get("status") == "partial",
        "thresholds": explain.thresholds(_calling(run)) if _calling(run) else "",
    }


def _calling(run: dict[str, Any]) -> dict[str, Any]:
    calling = run.get("calling")
    return calling if isinstance(calling, dict) else {}


def _statuses(summary: Summary) -> list[tuple[str, int, str]]:
    return [
        (status, count, explain.status_text(status))
        for status, count in summary.statuses.most_common()
        if status != "called"
    ]


def _samples(summary: Summary) -> dict[str, Any]:
    ranked = sorted(summary.samples.items(), key=lambda item: -item[1]["virus"])
    rows = [
        {"number": list(summary.samples).index(name), "name": name or "(one input)",
         "records": counts.total(), "virus": counts["virus"], "uncertain": counts["uncertain"],
         "non_virus": counts["non-virus"], "none": counts[""],
         "fdr": summary.sample_fdr.get(name)}
        for name, counts in ranked[:MOST_SAMPLES]
    ]  # fmt: skip
    return {"rows": rows, "hidden": len(ranked) - len(rows)}


def _json(data: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
