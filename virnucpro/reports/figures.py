"""run.json -> the run's figures in words: stages with time and rate, inputs, device, model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virnucpro.core.errors import UsageError
from virnucpro.core.files import read_json
from virnucpro.reports.explain import STAGE

# What a stage works through, best first: the first that its counts hold gives its rate.
RATED = ("tokens", "orfs", "rows", "chunks_scored", "nt", "records", "files")
UNITS = {"orfs": "ORFs", "rows": "ORFs", "chunks_scored": "chunks"}
# Libraries start and models load inside a stage: in a short one, that is most of its time.
RATED_SECONDS = 30.0
QUIET = ("status:", "call:")
WORDS = {
    "embedded": "ORFs embedded", "embedded_nt": "nt embedded", "embedded_aa": "aa embedded",
    "duplicates": "ORFs duplicated", "duplicate_nt": "nt duplicated", "orfs": "ORFs",
    "chunks_with_orf": "chunks with an ORF", "kept": "files kept", "failed": "files failed",
    "scored": "ORFs scored", "unscored": "ORFs without a score",
}  # fmt: skip
# A run's own clock and the sum of its stages, each rounded to a thousandth, differ this much.
CLOCK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run.

    Attributes:
        title: what it does.
        seconds: how long it took.
        share: of the time of all stages, 0 to 1.
        rate: items a second, in words; empty where there is none, or the stage was short.
        counts: what it counted, in words; nothing of what it met none of.
    """

    title: str
    seconds: float
    share: float
    rate: str
    counts: str


def read_run(output_dir: Path) -> dict[str, Any]:
    """What run.json says.

    Raises:
        UsageError: there is none, or it was not written by this program.
    """
    run = read_json(output_dir / "run.json")
    if run.get("tool") != "virnucpro":
        raise UsageError(f"{output_dir} holds no run: run.json is missing, damaged or not ours")
    return run


def stages(run: dict[str, Any]) -> list[Stage]:
    """Every stage of run.json that has a time, in order."""
    timed = _timed(run)
    total = sum(facts["seconds"] for facts in timed.values()) or 1.0
    return [_stage(name, facts, total) for name, facts in timed.items()]


def history(run: dict[str, Any]) -> str:
    """What of this result an earlier start had made; empty where nothing was."""
    timed = _timed(run)
    if _is_called_again(run):
        again = duration(run["seconds"])
        return (
            f"Calls and tables were made again, in {again}, from the scores of an earlier run; "
            "the other stages and their times are that run's."
        )
    if any(facts.get("kept") for facts in timed.values()):
        return "Files were kept from an earlier start of this run, whose time is not counted."
    return ""


def _timed(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: facts
        for name, facts in _dict(run.get("stages")).items()
        if isinstance(facts, dict) and isinstance(facts.get("seconds"), (int, float))
    }


def _is_called_again(run: dict[str, Any]) -> bool:
    """Whether stages took longer than the run they are told in, as they are an earlier one's."""
    return "seconds" in run and _stage_seconds(run) > run["seconds"] + CLOCK_SECONDS


def _stage_seconds(run: dict[str, Any]) -> float:
    return float(sum(facts["seconds"] for facts in _timed(run).values()))


def _stage(name: str, facts: dict[str, Any], total: float) -> Stage:
    counts = {
        key: value
        for key, value in facts.items()
        if key != "seconds" and isinstance(value, int) and value and not key.startswith(QUIET)
    }
    seconds = float(facts["seconds"])
    rated = next((key for key in RATED if key in counts), None)
    rate = ""
    if rated is not None and seconds >= RATED_SECONDS:
        rate = f"{_rounded(counts[rated] / seconds)} {UNITS.get(rated, rated)}/s"
    words = ", ".join(_counted(key, value) for key, value in counts.items())
    return Stage(STAGE.get(name, name.replace("_", " ")), seconds, seconds / total, rate, words)


def _counted(key: str, value: int) -> str:
    """A count in words.

    >>> _counted("chunks_with_orf", 2000), _counted("files", 1)
    ('2,000 chunks with an ORF', '1 file')
    """
    noun, *more = WORDS.get(key, key.replace("_", " ")).split(" ", 1)
    noun = noun.removesuffix("s") if value == 1 else noun
    return " ".join([f"{value:,}", noun, *more])


def facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of everything worth knowing about a run."""
    model, engines = _dict(run.get("model")), _dict(run.get("engines"))
    pairs = [
        ("Model", str(model.get("name", ""))),
        ("Model hash", str(model.get("digest", ""))),
        ("Chunk length", f"{model['chunk_nt']} nt" if "chunk_nt" in model else ""),
        ("Reading frames", _policy(model)),
        ("Device", _device(run)),
        ("Engines", "; ".join(f"{slot}: {words}" for slot, words in engines.items())),
        ("Number format", _number_formats(engines)),
        ("Version", _versions(run)),
        ("System", str(run.get("host", ""))),
        ("Started", str(run.get("started", ""))),
        ("Time in all", _time(run)),
        ("Command", " ".join(map(str, run.get("command", [])))),
    ]
    return [(name, value) for name, value in pairs if value]


def inputs(run: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Path, size and SHA-256 of each input."""
    return [
        (str(entry.get("path", "")), size(entry.get("bytes", 0)), str(entry.get("sha256", "")))
        for entry in run.get("inputs", [])
        if isinstance(entry, dict)
    ]


def duration(seconds: float) -> str:
    """Seconds in the units people say.

    >>> duration(0.0321), duration(75.2), duration(4000)
    ('0.03 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {int(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"


def percent(share: float) -> str:
    """A share as a percentage that rounds no small risk to nothing, and no exception away.

    >>> percent(0.0213), percent(0.00001), percent(0.0), percent(0.9999)
    ('2.1%', '<0.1%', '0%', '>99.9%')
    """
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%" if 0 < share < 1 else f"{share:.0%}"


def size(count: float) -> str:
    """Bytes in the units people say.

    >>> size(512), size(2_500_000)
    ('512 B', '2.5 MB')
    """
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _policy(model: dict[str, Any]) -> str:
    policies = {
        "open-frame": "every frame of a chunk without a stop codon",
        "longest": "the longest stretches of a chunk without a stop codon",
    }
    name = str(model.get("orf_policy", ""))
    keep = model.get("orf_keep")
    kept = f", at most {keep} a chunk" if keep else ""
    return f"{policies[name]}{kept}" if name in policies else name


def _time(run: dict[str, Any]) -> str:
    """The time of all that made the result, an earlier run's stages with it."""
    if "seconds" not in run:
        return ""
    return duration(_stage_seconds(run) if _is_called_again(run) else run["seconds"])


def _device(run: dict[str, Any]) -> str:
    """The devices that computed; where none did, those that were asked for."""
    if devices := run.get("devices"):
        return ", ".join(map(str, devices))
    compute = _dict(_dict(run.get("parameters")).get("compute"))
    if gpus := compute.get("gpus"):
        return ", ".join(f"cuda:{gpu}" for gpu in gpus)
    asked = str(compute.get("device", ""))
    return "" if asked == "auto" else asked


def _number_formats(engines: dict[str, Any]) -> str:
    """What the engines computed in: each is told as layout, number format and backend."""
    words = [str(text).split() for text in engines.values()]
    return ", ".join(dict.fromkeys(parts[1] for parts in words if len(parts) > 1))


def _versions(run: dict[str, Any]) -> str:
    known = _dict(run.get("versions")) or {"Python": run.get("python", "")}
    others = (f"{name} {version}" for name, version in known.items())
    return ", ".join([f"VirNucPro {run.get('version', '')}", *others])


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
