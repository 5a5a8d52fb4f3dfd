"""What every page that people open shares: its template settings, style and security policy."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from virnucpro.core.text import duration, percent

TEMPLATES = Path(__file__).parent / "templates"


def environment(folder: Path = TEMPLATES) -> Environment:
    """Templates of a folder, everything escaped, with filters for what pages print."""
    made = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {
        "count": lambda number: f"{number:,}",
        "duration": duration,
        "percent": percent,
    }
    return made


def asset(name: str, folder: Path = TEMPLATES) -> str:
    """A style sheet or script."""
    return (folder / name).read_text(encoding="utf-8").strip()


def policy(style: str, script: str = "") -> str:
    """Content security policy: this page's own style and script, and nothing from outside."""
    scripts = f"script-src '{_hash(script)}'; " if script else ""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; {scripts}"
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
