"""What real runs do, whole and disturbed: checks for rows 002 and 003 of the list."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from virnucpro.core.errors import WorkersFailedError

FAILED = "v2.0 ESM-2 inference failed on 1/1 workers: ranks [0]. Check logs: "


def nothing_finished(logs):
    """Where a shard or a rank is given up, the stage fails with 002-35, and with it all."""
    for name in ("a shard kills its ranks", "every rank dies", "every shard fails"):
        printed = " ".join(logs(name).split())
        out = logs.out(name)
        assert f"error: {FAILED}{out}/esm_v2/logs/worker_*.log" in printed
        assert not (out / "calls.tsv").exists()
        assert "protein_features" not in logs.record(name)["stages"]


def failure_text(logs):
    error = WorkersFailedError([1, 3], 4, Path("out/esm_v2/logs"))
    assert isinstance(error, RuntimeError)
    assert str(error) == (
        "v2.0 ESM-2 inference failed on 2/4 workers: ranks [1, 3]. "
        "Check logs: out/esm_v2/logs/worker_*.log"
    )


def nothing_failed(logs):
    assert "v2.0 ESM-2 complete:" in logs("parallel")
    assert not (logs.out("parallel") / "failed_files.txt").exists()
    run = logs.record("parallel")
    assert run["status"] == "done"
    assert set(logs.statuses("parallel")) == {"called"}


def pools_end(logs):
    """At the end of a run, and at an error in the midst of it."""
    for name, text in (
        ("persistent", "Started 1 workers"),
        ("persistent, disk full", "error: no space left"),
    ):
        assert text in logs(name)
        assert "Started 1 workers" in logs(name)
        assert not [child for child in logs.left[name] if child.startswith("virnucpro-")]


def progress_of_pools(logs):
    told = re.findall(r"Embedding (\w+): (\d+)/(\d+) ORFs, .*ETA", logs("persistent"))
    for title in ("DNA", "proteins"):
        done = [(int(part), int(whole)) for name, part, whole in told if name == title]
        assert done
        assert done[-1][0] == done[-1][1] > 0


ORDER = """
import logging, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is imported")
            raise ImportError("no torch in this test")

def made(*args, **kwargs):
    record = known(*args, **kwargs)
    print("logged", record.getMessage())
    return record

known = logging.getLogRecordFactory()
logging.setLogRecordFactory(made)
sys.meta_path.insert(0, Finder())
from virnucpro.cli.main import main
main()
"""


def logging_before_torch(logs):
    """The lines come after the settings were read, and torch after the lines."""

    def events(**variables):
        words = ["predict", str(logs.fasta), "--parallel", "-o", str(logs.root / "order")]
        done = subprocess.run(
            [sys.executable, "-c", ORDER, *words], env=os.environ | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        return [line for line in lines if "Architecture: " in line or line.startswith("torch")]

    first, *_, last = events()
    assert first == "logged Architecture: v2.0 hybrid"
    assert last == "torch is imported"
    assert events(VIRNUCPRO_DISABLE_PACKING="perhaps") == []
    assert "Architecture: v2.0 hybrid" in logs("parallel")
