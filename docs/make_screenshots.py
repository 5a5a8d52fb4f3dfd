"""Take the pictures of docs/img from reports, in a headless Chromium.

Run `python docs/make_screenshots.py`: it predicts on examples/demo.fa and on the samples that
examples/make_samples.py makes of it.
"""

from __future__ import annotations

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


def main(images: Path) -> None:
    """Make the runs and save one picture of each view."""
    examples = ROOT / "examples"
    with TemporaryDirectory() as folder, Browser() as browser:
        command = [sys.executable, examples / "make_samples.py", examples / "demo.fa"]
        subprocess.run(command, check=True, cwd=folder)
        shutil.copy(examples / "demo.fa", folder)
        for run, inputs in RUNS.items():
            command = [sys.executable, "-m", "virnucpro", "predict", *inputs, "-o", run]
            subprocess.run(command, check=True, cwd=folder)
        for name, run, width, height, dark, target in VIEWS:
            page = Path(folder, run, "report.html")
            browser.open(page, width=width, height=height, dark=dark)
            browser.wait("return document.querySelector('#records tbody tr') !== null")
            if target:
                browser.run(f"document.getElementById('{target}').scrollIntoView()")
            browser.screenshot(images / name, whole=False)


if __name__ == "__main__":
    main(ROOT / "docs" / "img")
