"""What to cite, as text and as BibTeX."""

from __future__ import annotations

import re
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


METHOD = Reference(
    "the published method",
    """@article{virnucpro2025,
  author = {Li, Jing and Mi, Jia and Lin, Wei and Tian, Fengjuan and Wan, Jing and \
Gao, Jingyang and Tong, Yigang},
  title = {VirNucPro: an identifier for the identification of viral short sequences using \
six-frame translation and large language models},
  journal = {Briefings in Bioinformatics},
  year = {2025},
  volume = {26},
  number = {3},
  pages = {bbaf224},
  doi = {10.1093/bib/bbaf224},
}""",
)
ESM2 = Reference(
    "ESM-2, protein vectors of the models 300 and 500",
    """@article{esm2,
  author = {Lin, Zeming and others},
  title = {Evolutionary-scale prediction of atomic-level protein structure with a language model},
  journal = {Science},
  year = {2023},
  volume = {379},
  number = {6637},
  pages = {1123-1130},
  doi = {10.1126/science.ade2574},
}""",
)
DNABERT_S = Reference(
    "DNABERT-S, DNA vectors of the models 300 and 500",
    """@article{dnaberts,
  author = {Zhou, Zhihan and others},
  title = {DNABERT-S: Pioneering Species Differentiation with Species-Aware DNA Embeddings},
  journal = {arXiv preprint arXiv:2402.08777},
  year = {2024},
  doi = {10.48550/arXiv.2402.08777},
}""",
)
TOOL = Reference(
    "this program",
    f"""@software{{virnucpro_tool,
  author = {{{{The VirNucPro developers}}}},
  title = {{VirNucPro, version {__version__}}},
  year = {{2026}},
  note = {{Software}},
}}""",
)
ALL = (TOOL, METHOD, ESM2, DNABERT_S)


def references(model: str) -> tuple[Reference, ...]:
    """What a run with the model of this name rests on."""
    return ALL if model in ("300", "500") else (TOOL, METHOD)
