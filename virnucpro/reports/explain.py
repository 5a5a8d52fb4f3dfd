"""Plain words for what calls.tsv says in one word."""

from __future__ import annotations

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
        "Computing failed for its reading frames; failed_files.txt gives the reason. "
        "Run again with --resume to try only these."
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
