"""Take the pictures of docs/img from a report, in a headless Chromium.

Run `python docs/make_screenshots.py` to predict on examples/demo.fa and show that, or give the
directory of another run.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import Browser  # noqa: E402

VIEWS = (
    ("report-light.png", 1160, 1065, False, None),
    ("report-dark.png", 1160, 890, True, "position"),
    ("report-narrow.png", 420, 930, False, None),
)


def take(report: Path, folder: Path) -> None:
    """Save one picture for each of `VIEWS`: name, width, height, dark, and what to scroll to."""
    with Browser() as browser:
        for name, width, height, dark, target in VIEWS:
            browser.open(report, width=width, height=height, dark=dark)
            browser.wait("return document.querySelector('#records tbody tr') !== null")
            if target:
                browser.run(f"document.getElementById('{target}')?.scrollIntoView()")
            browser.screenshot(folder / name, whole=False)


def main(run: Path | None) -> None:
    """Show a run, or one on the example contigs."""
    with TemporaryDirectory() as folder:
        if run is None:
            run = Path(folder) / "out"
            command = [sys.executable, "-m", "virnucpro", "predict", "demo.fa", "-o", str(run)]
            subprocess.run(command, check=True, cwd=ROOT / "examples")
        take(run / "report.html", ROOT / "docs" / "img")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
