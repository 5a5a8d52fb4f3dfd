"""report.html: one page about a run that needs no network, and a summary for MultiQC beside it."""

from html import escape
from pathlib import Path
from typing import Any

from markupsafe import Markup

from virnucpro.core.files import atomic_write, write_json
from virnucpro.reports import explain, pages
from virnucpro.reports import summary as totals
from virnucpro.reports.tables import RegionRow
from virnucpro.scores.thresholds import PRESETS, VIRUS

SCRIPTS = ("page.js", "charts.js", "limit.js", "track.js", "table.js")
REPORT_FILES = ("report.html", "virnucpro_mqc.json", "virnucpro_general_mqc.json")
SCORE_UNIT = 100_000
MOST_LETTERS = 600_000  # of sequences that can be copied: more would make the page large
# Name in MultiQC's data and colour, by call.
MULTIQC = {
    "virus": ("virus", "#b4472f"), "uncertain": ("uncertain", "#c9a03a"),
    "non-virus": ("non_virus", "#6f93ab"), "": ("not_called", "#b8bcc2"),
}  # fmt: skip


def write_report(output_dir: Path) -> Path:
    """Write report.html, whose path is returned, and what MultiQC reads, from run.json and tables.

    Raises:
        UsageError: there is no run in `output_dir`.
        InputError: calls.tsv is missing, or a table is damaged.
    """
    run = explain.read_run(output_dir)
    hosts, regions = totals.best_regions(output_dir / "regions.tsv")
    wanted, (mates, unit) = {row.key for _, row in regions}, explain.fragment(run)
    summary = totals.summarise(output_dir / "calls.tsv", wanted, mates)
    data = _data(run, summary, regions, output_dir) | {"unit": unit, "curve": summary.curve}
    style = pages.asset("report.css")
    script = "'use strict';\n" + "\n".join(pages.asset(name) for name in SCRIPTS)
    page, graph, general = (output_dir / name for name in REPORT_FILES)
    html = pages.environment().get_template("report.html").render(
        run=run, explain=explain, presets=PRESETS, summary=summary, data=data, hosts=hosts,
        told={one["sample"]: one for one in run["sample_summary"]},
        references=pages.references(run["model"]["name"]),
        style=Markup(style), script=Markup(script), policy=pages.policy(style, script),
    )  # fmt: skip
    with atomic_write(page, "w") as file:
        file.write(html)

    # MultiQC finds its files by name, and puts what it reads into its page as it is, so that
    # markup in names is escaped here: calls of each sample as bars, and columns of its table.
    write_json(graph, {
        "id": "virnucpro_calls",
        "section_name": "VirNucPro",
        "description": escape(f"Calls of VirNucPro {run['version']}, {run['model']['name']}."),
        "plot_type": "bargraph",
        "pconfig": {"id": "virnucpro_calls_plot", "title": "VirNucPro: calls", "ylab": "Records"},
        "categories": {
            name: {"name": call or "not called", "color": color}
            for call, (name, color) in MULTIQC.items()
        },
        "data": {
            escape(sample): {name: mates * counts[call] for call, (name, _) in MULTIQC.items()}
            for sample, counts in summary.samples.items()
        },
    })  # fmt: skip
    share = {"min": 0, "max": 100, "suffix": "%", "format": "{:,.1f}"}
    rows = {}
    for one in run["sample_summary"]:
        false = {} if one["expected_false"] is None else {"false": 100 * one["expected_false"]}
        viral = 100 * one["virus"] / max(1, one["records"])
        rows[escape(one["sample"])] = {"viral": viral, **false}
    write_json(general, {
        "id": "virnucpro_general",
        "plot_type": "generalstats",
        "pconfig": [
            {"viral": {"title": "Viral", "description": "Records called a virus", **share}},
            {"false": {"title": "False", "description": "Viral records expected false", **share}},
        ],
        "data": rows,
    })  # fmt: skip
    return page


def _data(
    run: dict[str, Any], summary: totals.Summary, best: list[tuple[int, RegionRow]], folder: Path
) -> dict[str, Any]:
    """What the page's script reads; numbers are -1 where there is none."""
    rows = [row for row, _ in summary.top]
    samples, statuses = list(summary.samples), list(summary.statuses)
    row_of = {row.key: place for place, row in enumerate(rows)}
    best = [(place, found) for place, found in best if found.key in row_of]
    chosen = totals.choose_tracks(rows, {found.key for _, found in best})
    regions: dict[int, list[tuple[int, int]]] = {}
    of_chosen = RegionRow.read(folder / "regions.tsv", lambda row: (row[-1], row[0]) in chosen)
    for found in of_chosen if chosen else ():
        regions.setdefault(chosen[found.key], []).append((found.start, found.end))
    # The page's place for each place in viral.fasta and in regions.fasta, surest first.
    viral, inside, letters = dict[int, int](), dict[int, int](), MOST_LETTERS
    for number, (place, found) in enumerate(best):
        if found.length <= letters:
            inside[place], letters = number, letters - found.length
    for number, (row, place) in enumerate(summary.top):
        if place >= 0 and row.length <= letters:
            viral[place], letters = number, letters - row.length
    packed = ".gz" if (folder / "viral.fasta.gz").exists() else ""
    sample_of = {name: place for place, name in enumerate(samples)}
    call_of = {name: place for place, name in enumerate(totals.CALLS)}
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
            "call": [call_of.get(row.call or "", len(totals.CALLS) - 1) for row in rows],
            "status": [statuses.index(row.status) for row in rows],
            "hint": {
                place: ", ".join(filter(None, (row.class_hint, row.family)))
                for place, row in enumerate(rows)
                if row.class_hint
            },
            "ps": [_scaled(row.p_sample) for row in rows],
            "limit": [totals.limit_of(row.fdr or 0.0) if row.call == VIRUS else 0 for row in rows],
        },
        "found": [
            {
                "row": row_of[found.key], "start": found.start, "end": found.end,
                "share": found.share_of_contig, "logOdds": found.log_odds,
                "supporting": found.supporting, "opposing": found.opposing,
            }
            for _, found in best
        ],
        "fasta": totals.read_sequences(folder / f"viral.fasta{packed}", viral),
        "regionFasta": totals.read_sequences(folder / f"regions.fasta{packed}", inside),
        "limits": totals.LIMITS,
        "again": explain.advice(run["command"], "\0").split("\0"),
        "calls": totals.CALLS,
        "histogram": summary.histogram,
        "grid": [[*cell, count] for cell, count in sorted(summary.grid.items())],
        "perDecade": totals.LENGTH_BINS_PER_DECADE,
        "minScore": run["calling"]["min_score"],
        "tracks": totals.read_tracks(folder / "chunks.tsv", chosen) if chosen else [],
        "regions": regions,
    }  # fmt: skip


def _scaled(value: float | None) -> int:
    return -1 if value is None else round(value * SCORE_UNIT)
