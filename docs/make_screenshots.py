"""Make what the README and the tutorial show of runs: pictures of reports, lines and tables.

Run `python docs/make_screenshots.py`: it predicts on examples/demo.fa and on the samples that
examples/make_samples.py makes of it, takes pictures in a headless Chromium, and writes what the
runs said and found into both pages.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser  # noqa: E402

RUNS = {
    "demo": ("demo.fa",), "host": ("host.fa",),
    "poor": ("poor_1.fq.gz", "poor_2.fq.gz", "--paired"),
}  # fmt: skip
# Name, run, width, height, dark, and what to scroll to.
VIEWS = (
    ("report-light.png", "demo", 1160, 1290, False, None),
    ("report-dark.png", "demo", 1160, 900, True, "position"),
    ("report-narrow.png", "demo", 500, 1100, False, None),
    ("report-poor.png", "poor", 1160, 900, False, None),
    ("report-host.png", "host", 1160, 620, False, "regions-title"),
)

FIRST = ("influenza_1", "rabies_3", "phage_2", "coryne_3", "coryne_9")  # rows of the README
IN_FIRST = {"id": 12, "length": 7, "p_virus": 11, "call": 10, "kind": 0}  # columns, letters of each
IN_REGIONS = ("id", "start", "end", "supporting", "opposing", "log_odds", "call")


def main(images: Path) -> None:
    """Make the runs, save one picture of each view, and rewrite both pages."""
    said: dict[str, list[str]] = {}
    examples = ROOT / "examples"
    with TemporaryDirectory() as folder, Browser() as browser:
        command = [sys.executable, examples / "make_samples.py", examples / "demo.fa"]
        subprocess.run(command, check=True, cwd=folder)
        shutil.copy(examples / "demo.fa", folder)
        for run, inputs in RUNS.items():
            command = [sys.executable, "-m", "virnucpro", "predict", *inputs, "-o", run]
            done = subprocess.run(
                command, check=True, cwd=folder, stdout=subprocess.PIPE, text=True
            )
            lines = [line.split(" - INFO - ")[-1] for line in done.stdout.splitlines()]
            told = ("1,000 pairs", "poor: ", "1 record", "With a viral region")
            said[run] = [line for line in lines if line.startswith(told)]
        for name, run, width, height, dark, target in VIEWS:
            page = Path(folder, run, "report.html")
            browser.open(page, width=width, height=height, dark=dark)
            browser.wait("return document.querySelector('#records tbody tr') !== null")
            if target:
                browser.run(f"document.getElementById('{target}').scrollIntoView()")
            browser.screenshot(images / name, whole=False)
        calls, regions = rows_of(folder, "demo/calls.tsv"), rows_of(folder, "host/regions.tsv")
    shown = [row for name in FIRST for row in calls if row["id"] == name]
    rows = [dict(zip(IN_FIRST, IN_FIRST, strict=True)), *shown]
    text = [" ".join(f"{row[name]:<{width}}" for name, width in IN_FIRST.items()) for row in rows]
    rewrite(ROOT / "README.md", r"(?<=^id {11}).*?(?=^```)", "\n".join(text)[13:])
    page = ROOT / "docs" / "tutorial.md"
    rewrite(page, r"(?<=^```console\n)1,000 .*?(?=^```)", "\n".join(said["poor"]))
    rewrite(page, r"(?<=^```console\n)1 record.*?(?=^```)", "\n".join(said["host"]))
    text = ["| " + " | ".join(row[name] for name in IN_REGIONS) + " |" for row in regions]
    rewrite(page, r"(?<=^\|---\|---\|---\|---\|---\|---\|---\|\n).*?(?=^$)", "\n".join(text))


def rows_of(folder: str, name: str) -> list[dict[str, str]]:
    """Rows of a table of a run."""
    with Path(folder, name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def rewrite(page: Path, pattern: str, text: str) -> None:
    """Put lines in the one place of a page that fits the pattern."""
    lines = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    found, count = re.subn(pattern, lambda match: lines, page.read_text(), flags=re.M | re.S)
    if count != 1:
        raise ValueError(f"{page}: {count} places fit {pattern}")
    page.write_text(found)


if __name__ == "__main__":
    main(ROOT / "docs" / "img")
