"""What run.json says, in plain words where people read it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro.core.errors import UsageError
from virnucpro.core.files import read_json
from virnucpro.reports.tables import SCHEMA

SURE_FDR = 0.05  # the limit that is advised where calls are not sure

Run = Mapping[str, Any]  # run.json

_PARTS = {  # what a run that has ended holds, at least
    **dict.fromkeys(("model", "parameters", "calling", "stages", "outputs"), dict),
    **dict.fromkeys(("command", "inputs", "samples", "sample_summary"), list), "status": str,
}  # fmt: skip


def read_run(output_dir: Path) -> dict[str, Any]:
    """What run.json says of a run that has ended; without one of this version a `UsageError`."""
    run = read_json(output_dir / "run.json")
    is_ours = run.get("tool") == "virnucpro" and run.get("schema") == SCHEMA
    if is_ours and run.get("status") == "running":
        raise UsageError(f"{output_dir} holds a run that did not end; predict --resume goes on")
    if not is_ours or any(type(run.get(name)) is not known for name, known in _PARTS.items()):
        raise UsageError(
            f"{output_dir} holds no run of this version: run.json is missing, damaged or not ours"
        )
    return run


def fragment(run: Run) -> tuple[int, str]:
    """Records in a row that have one call, and what they are called: 2 of a pair, 1 of a record."""
    asked = run["parameters"]["inputs"]
    return (2, "pair") if asked["paired"] or asked["interleaved"] else (1, "record")


def expected_false(run: Run) -> float | None:
    """The share of all viral records that is expected to be false; None without any."""
    viral = [(one["virus"], one["expected_false"]) for one in run["sample_summary"] if one["virus"]]
    false = sum(count * share for count, share in viral)
    return false / sum(count for count, _ in viral) if viral else None


def advice(command: Sequence[str], limit: str = f"{SURE_FDR:g}") -> str:
    """How to call a finished run again with a bound of the FDR, given the words that started it.

    >>> advice(["virnucpro", "plan", "a.fa", "-o", "run", "--block", "2"])
    'virnucpro predict a.fa -o run --resume --max-fdr 0.05'
    """
    words = [word for word in command[1:] if word not in ("--force", "-f", "--resume")]
    if "plan" in words and "predict" not in words:
        words[words.index("plan")] = "predict"
        words = [word for word in words if not word.startswith("--block=")]
        if "--block" in words:
            at = words.index("--block")
            del words[at : at + 2]
    if "predict" not in words:  # from Python
        return f"predict(..., resume=True, max_fdr={limit})"
    return shlex.join(["virnucpro", *words, "--resume", "--max-fdr"]) + f" {limit}"


def sure(run: Run) -> str:
    """How many of the viral records, or pairs, `advice` keeps, after a comma; "" if not known."""
    (width, unit), found = fragment(run), run["sample_summary"]
    if not all("sure" in one for one in found):  # an earlier version did not count them
        return ""
    kept, viral = (sum(one[name] for one in found) // width for name in ("sure", "virus"))
    return f", {kept:,} of {viral:,} viral {unit}s"
