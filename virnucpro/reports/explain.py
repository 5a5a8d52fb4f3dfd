"""Plain words for what calls.tsv says in one word."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from virnucpro.scores.thresholds import PRESETS

STATUS = {
    "called": "Scored and called.",
    "no_orf": (
        "No reading frame to score: every chunk is broken up by stop codons in all six frames. "
        "The model reads DNA together with the protein it encodes, so there is nothing to judge. "
        "This says neither virus nor non-virus."
    ),
    "too_short": "Shorter than the shortest sequence that holds a reading frame.",
    "ambiguous": (
        "No stretch of plain A, C, G and T long enough to hold a reading frame; "
        "mostly N or other ambiguity codes."
    ),
    "not_dna": "Over 10% of the letters are no DNA letters: protein, or a damaged file.",
    "filtered": "Left out as asked, by --min-length or --sample-n.",
    "failed": (
        "Computing failed for some of its reading frames, or all; failed_files.txt gives the "
        "reason. Run again with --resume to try only these."
    ),
}
STAGE = {
    "chunking": "Read and cut into chunks",
    "translation": "Find reading frames",
    "splitting": "Split into files",
    "dna_features": "DNA encoder",
    "protein_features": "Protein encoder",
    "merging": "Join vectors",
    "prediction": "Classify",
    "consensus": "Call records",
    "tables": "Write tables",
}


def status_text(status: str) -> str:
    """One sentence or two on a status, for a reader who has not seen the manual."""
    return STATUS.get(status, "Not called.")


def thresholds(calling: Mapping[str, Any]) -> str:
    """What a record must reach to be called viral, from `calling` of run.json.

    >>> thresholds({"preset": None, "min_score": 0.8, "max_fdr": 0.01, "only_stricter": False})
    'A record is called viral if its p_virus is at least 0.8 and its FDR is at most 1%.'
    """
    score, fdr = (number(calling.get(name)) for name in ("min_score", "max_fdr"))
    needs = [] if score is None else [f"is at least {score:g}"]
    if score is None or calling.get("only_stricter"):
        needs.append("passes the model's own limits")
    rest = ", at any FDR" if fdr is None else f" and its FDR is at most {100 * fdr:g}%"
    said = f"record is called viral if its p_virus {' and '.join(needs)}{rest}."
    preset = calling.get("preset")
    if not preset:
        return f"A {said}"
    known = next((known for name, known in PRESETS.items() if name == preset), None)
    is_own = known is not None and (known.min_score, known.max_fdr) == (score, fdr)
    return f"Preset {preset}{'' if is_own else ', changed'}: a {said}"


def uncertain(histogram: Sequence[int]) -> list[tuple[int, str]]:
    """Counts of the uncertain records in the lower and the upper half of the scores, and why.

    No model calls viral what scores under one half, so that down there only a sequence unlike
    any in training is uncertain.
    """
    half = len(histogram) // 2
    below, above = sum(histogram[:half]), sum(histogram[half:])
    known = [
        (
            below,
            "uncertain below 0.5: unlike anything the model was trained on, as random bases and "
            "repeats are. Such a low score does not speak against a virus.",
        ),
        (above, "uncertain from 0.5 on: short of the thresholds, or unlike the training data too."),
    ]
    return [(count, text) for count, text in known if count]


def number(value: object) -> float | None:
    """A number of a file that anyone may have edited; None for anything else."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
