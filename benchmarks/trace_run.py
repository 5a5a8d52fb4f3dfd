"""How far a default run wanders: modules, functions and changes of module in the main thread.

A change of module is a call whose caller's and callee's files differ. Two records, the bundled
model, report and all; what importing calls is not counted.

    python -m benchmarks.trace_run [OPTIONS OF predict]
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import virnucpro
from virnucpro.cli.main import cli

ROOT = str(Path(virnucpro.__file__).parent)
RECORDS = [("a", "ATGGCTAAAGTTCTGTCACCAGATGGC" * 30), ("b", "GATTACAGGCATTTAGCCAGTACCGTA" * 30)]


class Trace:
    """Counts calls inside the package; use as `sys.setprofile(trace)`."""

    def __init__(self) -> None:
        self.modules: Counter[str] = Counter()
        self.functions: set[tuple[str, str]] = set()
        self.changes = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note one event of the profiler."""
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(ROOT) or frame.f_code.co_name == "<module>":
            return
        self.modules[file.removeprefix(ROOT + "/")] += 1
        self.functions.add((file, frame.f_code.co_qualname if hasattr(frame.f_code, "co_qualname")
                            else frame.f_code.co_name))  # fmt: skip
        caller = frame.f_back.f_code.co_filename if frame.f_back else ""
        self.changes += caller.startswith(ROOT) and caller != file


def trace(options: list[str]) -> dict[str, int]:
    """Run the command once to import everything, then once under the profiler."""
    with tempfile.TemporaryDirectory() as folder:
        fasta = Path(folder) / "two.fa"
        fasta.write_text("".join(f">{name}\n{letters}\n" for name, letters in RECORDS))
        for out in ("first", "second"):
            found = Trace()
            command = ["--quiet", "predict", str(fasta), "-o", str(Path(folder) / out), *options]
            if out == "second":
                sys.setprofile(found)
            with suppress(SystemExit):
                cli(command, standalone_mode=False)
            sys.setprofile(None)
    return {"modules": len(found.modules), "functions": len(found.functions),
            "changes_of_module": found.changes}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(trace(sys.argv[1:])))
