"""Plain words for what run.json says in one word or one number."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro.core.errors import UsageError
from virnucpro.core.files import read_json
from virnucpro.core.text import counted, percent
from virnucpro.reports.tables import SCHEMA
from virnucpro.scores.thresholds import PRESETS

FEWEST = 20  # scored records of a sample whose share of viruses is shown
STAGES = {
    "reading": "Read, cut and split into files",
    "dna_features": "DNA encoder",
    "protein_features": "Protein encoder",
    "merging": "Join vectors",
    "prediction": "Classify",
    "scoring": "Read, score and call",
    "tables": "Write tables",
}
POLICIES = {
    "open-frame": "every frame of a chunk without a stop codon",
    "longest": "the longest stretches of a chunk without a stop codon",
}
# Of counts that are not called as they are: the singular, and what comes behind it.
COUNTS = {
    "embedded": ("distinct ORF", ""), "orfs": ("ORF", ""), "kept": ("file", " kept"),
    "failed": ("file", " failed"), "scored": ("ORF", " scored"),
    "chunks_scored": ("chunk", " scored"), "gaps": ("gap", " removed"),
    "digits": ("digit", " removed"), "blanks": ("blank", " removed"),
    "with_regions": ("record", " viral in a region"),
}  # fmt: skip
# What a stage works through, best first: the first that its counts hold gives its rate.
RATED = {
    "tokens": "tokens", "orfs": "ORFs", "scored": "ORFs", "records": "records", "files": "files",
}  # fmt: skip
# Libraries start and models load inside a stage: in a short one, that is most of its time.
RATED_SECONDS = 30.0

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


def mates(run: Run) -> int:
    """Records in a row that are one fragment and have one call: 2 of pairs, else 1."""
    asked = run["parameters"]["inputs"]
    return 2 if asked["paired"] or asked["interleaved"] else 1


def expected_false(run: Run) -> float | None:
    """The share of all viral records that is expected to be false; None without any."""
    viral = [(one["virus"], one["expected_false"]) for one in run["sample_summary"] if one["virus"]]
    false = sum(count * share for count, share in viral)
    return false / sum(count for count, _ in viral) if viral else None


def thresholds(calling: Mapping[str, Any], unit: str = "record") -> str:
    """What a record, or pair, must reach to be called viral, from `calling` of run.json."""
    score, fdr, preset = (calling[name] for name in ("min_score", "max_fdr", "preset"))
    needs = [] if score is None else [f"is at least {score:g}"]
    if score is None or calling["only_stricter"]:
        needs.append("passes the model's own limits")
    rest = ", at any FDR" if fdr is None else f" and its FDR is at most {100 * fdr:g}%"
    said = f"{unit} is called viral if its p_virus {' and '.join(needs)}{rest}."
    if preset is None:
        return f"A {said}"
    own = PRESETS[preset]
    changed = "" if (own.min_score, own.max_fdr) == (score, fdr) else ", changed"
    return f"Preset {preset}{changed}: a {said}"


def stages(run: Run) -> list[dict[str, Any]]:
    """Every stage of run.json with counts and, of a long one, rate in words."""
    found, total = [], sum(facts["seconds"] for facts in run["stages"].values()) or 1.0
    for name, facts in run["stages"].items():
        seconds, words = facts["seconds"], []
        hidden = ("seconds", "status:", "call:")
        counts = {k: value for k, value in facts.items() if value and not k.startswith(hidden)}
        rated, rate = next((key for key in RATED if key in counts), None), ""
        if rated is not None and seconds >= RATED_SECONDS:
            speed = counts[rated] / seconds
            rate = f"{f'{speed:,.0f}' if speed >= 10 else f'{speed:.2g}'} {RATED[rated]}/s"
        for key, value in counts.items():
            noun, rest = COUNTS.get(key, (key.replace("_", " ").removesuffix("s"), ""))
            words.append(f"{value:,} nt" if key == "nt" else counted(value, noun) + rest)
        found.append({
            "title": STAGES.get(name, name), "seconds": seconds, "share": seconds / total,
            "rate": rate, "counts": ", ".join(words),
        })  # fmt: skip
    return found


def estimates(run: Run) -> dict[str, str]:
    """The share of viruses in each sample with its interval, such as `2.1% (0% to 4.0%)`.

    Of fewer than `FEWEST` scored records nothing can be told.
    """
    return {
        one["sample"]: f"{percent(one['prevalence'])} "
        f"({percent(one['low'])} to {percent(one['high'])})"
        for one in run["sample_summary"]
        if one["scored"] >= FEWEST
    }


def advice(command: Sequence[str], limit: str = "0.05") -> str:
    """How to call a finished run again with a bound of the FDR, given the words that started it.

    >>> advice(["virnucpro", "plan", "a.fa", "-o", "run", "--block", "2"])
    'virnucpro predict a.fa -o run --resume --max-fdr 0.05'
    """
    words = [word for word in command[1:] if word not in ("--force", "-f", "--resume")]
    if "plan" in words:
        words[words.index("plan")] = "predict"
        if "--block" in words:
            at = words.index("--block")
            del words[at : at + 2]
    if "predict" not in words:  # from Python
        return f"predict(..., resume=True, max_fdr={limit})"
    return shlex.join(["virnucpro", *words, "--resume", "--max-fdr"]) + f" {limit}"
