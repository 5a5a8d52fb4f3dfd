"""What to cite, as text and as BibTeX."""

from pathlib import Path
from typing import NamedTuple

from virnucpro import __version__


class Reference(NamedTuple):
    """One work to cite."""

    why: str  # what of a run rests on it
    text: str  # one line for a reference list
    bibtex: str


def references(model: str = "500") -> list[Reference]:
    """What a run with the model of this name rests on."""
    text = (Path(__file__).parent / "templates" / "citations.bib").read_text(encoding="utf-8")
    entries = text.replace("VERSION", __version__).replace("% ", "").strip().split("\n\n")
    found = [Reference(*entry.split("\n", 2)) for entry in entries]
    return found if model in ("300", "500") else found[:2]
