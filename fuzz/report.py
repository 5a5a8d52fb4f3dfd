"""What a campaign found, as JSON with what was run, on which code and where."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def write_report(about: str, found: Mapping[str, Any], output: Path | None) -> None:
    """Print the report, and keep it where it is asked for."""
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=ROOT, check=False).stdout
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    report = {
        "about": about,
        "command": " ".join(["python", str(name), *sys.argv[1:]]),
        "commit": commit.strip(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        **found,
    }
    text = json.dumps(report, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")
