"""What pages that people open share: templates, style, security policy, and what to cite."""

import base64
import hashlib
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from virnucpro import __version__
from virnucpro.core.text import counted, duration, percent, size

TEMPLATES = Path(__file__).parent / "templates"


def environment(folder: Path = TEMPLATES) -> Environment:
    """Templates of a folder, with filters; names from the input are escaped."""
    made = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    filters = {"count": "{:,}".format, "counted": counted, "duration": duration}
    made.filters |= {**filters, "percent": percent, "size": size}
    return made


def asset(name: str, folder: Path = TEMPLATES) -> str:
    """A style sheet or script."""
    return (folder / name).read_text(encoding="utf-8").strip()


def policy(style: str, script: str = "") -> str:
    """Content security policy: this page's own style and script, and nothing from outside."""
    own, scripts = (
        "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    )
    allowed = f"script-src '{scripts}'; " if script else ""
    return f"default-src 'none'; style-src '{own}'; {allowed}base-uri 'none'; form-action 'none'"


class Reference(NamedTuple):
    """One work to cite."""

    why: str  # what of a run rests on it
    text: str  # one line for a reference list
    bibtex: str


def references(model: str = "500") -> list[Reference]:
    """What a run with the model of this name rests on."""
    entries = asset("citations.bib").replace("VERSION", __version__).replace("% ", "").split("\n\n")
    found = [Reference(*entry.split("\n", 2)) for entry in entries]
    return found if model in ("300", "500") else found[:2]
