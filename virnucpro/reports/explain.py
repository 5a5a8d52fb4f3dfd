"""Plain words for what run.json says in one word or one number."""

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from virnucpro.core.errors import UsageError
from virnucpro.core.files import read_json
from virnucpro.core.text import duration, percent, size
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
COUNTS = {
    "embedded": "distinct ORFs", "orfs": "ORFs", "kept": "files kept", "failed": "files failed",
    "scored": "ORFs scored", "chunks_scored": "chunks scored", "gaps": "gaps removed",
    "digits": "digits removed", "blanks": "blanks removed",
    "with_regions": "records viral in a region",
}  # fmt: skip
# What a stage works through, best first: the first that its counts hold gives its rate.
RATED = {
    "tokens": "tokens", "orfs": "ORFs", "scored": "ORFs", "records": "records", "files": "files",
}  # fmt: skip
# Libraries start and models load inside a stage: in a short one, that is most of its time.
RATED_SECONDS = 30.0
# A run's own clock and the sum of its stages, each rounded to a thousandth, differ this much.
CLOCK_SECONDS = 0.01


def read_run(output_dir: Path) -> dict[str, Any]:
    """What run.json says; without one that this program wrote, a `UsageError`."""
    run = read_json(output_dir / "run.json")
    if run.get("tool") != "virnucpro":
        raise UsageError(f"{output_dir} holds no run: run.json is missing, damaged or not ours")
    return run


def part(run: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A mapping inside run.json; empty where there is none."""
    value = run.get(name)
    return value if isinstance(value, dict) else {}


def entries(run: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The mappings of a list inside run.json; empty where there is none."""
    value = run.get(name)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def mates(run: Mapping[str, Any]) -> int:
    """Records in a row that are one fragment and have one call: 2 of pairs, else 1."""
    asked = part(part(run, "parameters"), "inputs")
    return 2 if asked.get("paired") or asked.get("interleaved") else 1


def number(value: object) -> float | None:
    """A number of a file that anyone may have edited; None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def thresholds(calling: Mapping[str, Any]) -> str:
    """What a record must reach to be called viral, from `calling` of run.json."""
    score, fdr = (number(calling.get(name)) for name in ("min_score", "max_fdr"))
    needs = [] if score is None else [f"is at least {score:g}"]
    if score is None or calling.get("only_stricter"):
        needs.append("passes the model's own limits")
    rest = ", at any FDR" if fdr is None else f" and its FDR is at most {100 * fdr:g}%"
    said = f"record is called viral if its p_virus {' and '.join(needs)}{rest}."
    if not (preset := calling.get("preset")):
        return f"A {said}"
    own = [(known.min_score, known.max_fdr) for name, known in PRESETS.items() if name == preset]
    return f"Preset {preset}{'' if own == [(score, fdr)] else ', changed'}: a {said}"


def inputs(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Path, size and hash of every input."""
    return [
        (str(entry.get("path", "")), size(entry.get("bytes", 0)), str(entry.get("sha256", "")))
        for entry in entries(run, "inputs")
    ]


def stages(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every stage of run.json that has a time, with counts and, of a long one, rate in words."""
    found, timed = [], _timed(run)
    total = sum(facts["seconds"] for facts in timed.values()) or 1.0
    for name, facts in timed.items():
        seconds = float(facts["seconds"])
        hidden = ("seconds", "status:", "call:")
        counts = {
            key: value
            for key, value in facts.items()
            if isinstance(value, int) and value and not key.startswith(hidden)
        }
        rated = next((key for key in RATED if key in counts), None)
        rate = ""
        if rated is not None and seconds >= RATED_SECONDS:
            speed = counts[rated] / seconds
            rate = f"{f'{speed:,.0f}' if speed >= 10 else f'{speed:.2g}'} {RATED[rated]}/s"
        words = []
        for key, value in counts.items():
            noun, *more = COUNTS.get(key, key.replace("_", " ")).split(" ", 1)
            noun = noun.removesuffix("s") if value == 1 else noun
            words.append(" ".join([f"{value:,}", noun, *more]))
        found.append({
            "title": STAGES.get(name, name.replace("_", " ")), "seconds": seconds,
            "share": seconds / total, "rate": rate, "counts": ", ".join(words),
        })  # fmt: skip
    return found


def estimates(run: Mapping[str, Any]) -> dict[str, str]:
    """The share of viruses in each sample with its interval, such as `2.1% (0% to 4.0%)`.

    Of fewer than `FEWEST` scored records nothing can be told.
    """
    found = {}
    for entry in entries(run, "sample_summary"):
        shares = [number(entry.get(name)) for name in ("prevalence", "low", "high")]
        if None not in shares and (number(entry.get("scored")) or 0) >= FEWEST:
            share, low, high = (percent(value or 0.0) for value in shares)
            found[str(entry.get("sample", ""))] = f"{share} ({low} to {high})"
    return found


def advice(command: Sequence[str], limit: str = "0.05") -> str:
    """How to call a finished run again with a bound of the FDR, given the words that started it."""
    words = [word for word in command[1:] if word not in ("--force", "-f", "--resume")]
    if "predict" not in words:  # from Python
        return f"predict(..., resume=True, max_fdr={limit})"
    return shlex.join(["virnucpro", *words, "--resume", "--max-fdr"]) + f" {limit}"


def history(run: Mapping[str, Any]) -> str:
    """What of this result an earlier start had made; empty where nothing was."""
    if _earlier_seconds(run) is not None:
        return (
            f"Calls and tables were made again, in {duration(run['seconds'])}, from the scores of "
            "an earlier run; the other stages and their times are that run's."
        )
    if any(facts.get("kept") for facts in _timed(run).values()):
        return "Files were kept from an earlier start of this run, whose time is not counted."
    return ""


def facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything worth knowing about a run."""
    model, engines = part(run, "model"), part(run, "engines")
    compute = part(part(run, "parameters"), "compute")
    policy, keep = str(model.get("orf_policy", "")), model.get("orf_keep")
    kept = f", at most {keep} a chunk" if keep and policy in POLICIES else ""
    asked = [] if compute.get("device") == "auto" else [compute.get("device", "")]
    devices = run.get("devices") or [f"cuda:{gpu}" for gpu in compute.get("gpus") or ()] or asked
    # each engine is told as layout, number format and backend
    formats = [words[1] for words in map(str.split, map(str, engines.values())) if words[1:]]
    versions = {"VirNucPro": run.get("version", "")}
    versions |= part(run, "versions") or {"Python": run.get("python", "")}
    earlier = _earlier_seconds(run)
    seconds = number(run.get("seconds")) if earlier is None else earlier
    pairs = [
        ("Model", str(model.get("name", ""))),
        ("Model hash", str(model.get("digest", ""))),
        ("Chunk length", f"{model['chunk_nt']} nt" if "chunk_nt" in model else ""),
        ("Reading frames", POLICIES.get(policy, policy) + kept),
        ("Device", ", ".join(map(str, devices))),
        ("Engines", "; ".join(f"{slot}: {words}" for slot, words in engines.items())),
        ("Number format", ", ".join(dict.fromkeys(formats))),
        ("Version", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("System", str(run.get("host", ""))),
        ("Started", str(run.get("started", ""))),
        ("Time in all", "" if seconds is None else duration(seconds)),
        ("Command", " ".join(map(str, run.get("command", [])))),
    ]
    return [(name, value) for name, value in pairs if value]


def _timed(run: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: facts
        for name, facts in part(run, "stages").items()
        if isinstance(facts, dict) and isinstance(facts.get("seconds"), int | float)
    }


def _earlier_seconds(run: Mapping[str, Any]) -> float | None:
    """Of all stages, where they took longer than the run, as they are an earlier one's; or None."""
    seconds, total = number(run.get("seconds")), sum(f["seconds"] for f in _timed(run).values())
    return float(total) if seconds is not None and total > seconds + CLOCK_SECONDS else None
