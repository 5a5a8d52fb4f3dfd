"""What to cite, as text and as BibTeX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from virnucpro import __version__


def _authors(bibtex: str) -> str:
    names = bibtex.strip("{}").split(" and ")
    return f"{names[0]} et al." if len(names) > 1 else names[0]


@dataclass(frozen=True, slots=True)
class Reference:
    """One work to cite.

    Attributes:
        key: BibTeX key.
        kind: BibTeX entry type.
        why: what of a run rests on it.
        fields: BibTeX fields in order; `author` in BibTeX form.
    """

    key: str
    kind: str
    why: str
    fields: Mapping[str, str]

    @property
    def text(self) -> str:
        """One line for a reference list."""
        named = self.fields
        where = named.get("journal") or named.get("note", "")
        volume = named.get("volume", "")
        number = f"({named['number']})" if "number" in named else ""
        pages = f":{named['pages']}" if "pages" in named else ""
        authors = _authors(named["author"])
        place = f"{where} {volume}{number}{pages}".strip()
        link = f" doi:{named['doi']}" if "doi" in named else ""
        year = f" ({named['year']})" if "year" in named else ""
        return f"{authors}{year}. {named['title']}. {place}.{link}"

    @property
    def bibtex(self) -> str:
        """One BibTeX entry."""
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in self.fields.items())
        return f"@{self.kind}{{{self.key},\n{lines}}}"


METHOD = Reference(
    "virnucpro2025",
    "article",
    "the published method",
    {
        "author": "Li, Jing and Mi, Jia and Lin, Wei and Tian, Fengjuan and Wan, Jing and "
        "Gao, Jingyang and Tong, Yigang",
        "title": "VirNucPro: an identifier for the identification of viral short sequences using "
        "six-frame translation and large language models",
        "journal": "Briefings in Bioinformatics",
        "year": "2025",
        "volume": "26",
        "number": "3",
        "pages": "bbaf224",
        "doi": "10.1093/bib/bbaf224",
    },
)
ESM2 = Reference(
    "esm2",
    "article",
    "ESM-2, protein vectors of the models 300 and 500",
    {
        "author": "Lin, Zeming and others",
        "title": "Evolutionary-scale prediction of atomic-level protein structure with a language "
        "model",
        "journal": "Science",
        "year": "2023",
        "volume": "379",
        "number": "6637",
        "pages": "1123-1130",
        "doi": "10.1126/science.ade2574",
    },
)
DNABERT_S = Reference(
    "dnaberts",
    "article",
    "DNABERT-S, DNA vectors of the models 300 and 500",
    {
        "author": "Zhou, Zhihan and others",
        "title": "DNABERT-S: Pioneering Species Differentiation with Species-Aware DNA Embeddings",
        "journal": "arXiv preprint arXiv:2402.08777",
        "year": "2024",
        "doi": "10.48550/arXiv.2402.08777",
    },
)
TOOL = Reference(
    "virnucpro_tool",
    "software",
    "this program",
    {
        "author": "{The VirNucPro developers}",
        "title": f"VirNucPro, version {__version__}",
        "year": "2026",
        "note": "Software",
    },
)
ALL = (TOOL, METHOD, ESM2, DNABERT_S)


def references(model: str) -> tuple[Reference, ...]:
    """What a run with the model of this name rests on."""
    return ALL if model in ("300", "500") else (TOOL, METHOD)
