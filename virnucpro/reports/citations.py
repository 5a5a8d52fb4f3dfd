"""What to cite, as text and as BibTeX."""

import re
from pathlib import Path
from typing import NamedTuple

from virnucpro import __version__


class Reference(NamedTuple):
    """One work to cite: what of a run rests on it, and its BibTeX entry."""

    why: str
    bibtex: str

    @property
    def text(self) -> str:
        """One line for a reference list."""
        named = dict(re.findall(r"^  (\w+) = \{(.*)\},$", self.bibtex, re.MULTILINE))
        names = named["author"].strip("{}").split(" and ")
        authors = f"{names[0]} et al." if len(names) > 1 else names[0]
        number = f"({named['number']})" if "number" in named else ""
        pages = f":{named['pages']}" if "pages" in named else ""
        place = f"{named.get('journal') or named['note']} {named.get('volume', '')}{number}{pages}"
        link = f" doi:{named['doi']}" if "doi" in named else ""
        return f"{authors} ({named['year']}). {named['title']}. {place.strip()}.{link}"


def references(model: str = "500") -> list[Reference]:
    """What a run with the model of this name rests on."""
    text = (Path(__file__).parent / "templates" / "citations.bib").read_text(encoding="utf-8")
    entries = text.replace("VERSION", __version__).strip().split("\n\n")
    found = [Reference(*entry.removeprefix("% ").split("\n", 1)) for entry in entries]
    return found if model in ("300", "500") else found[:2]
