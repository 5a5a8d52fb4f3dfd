"""What every page that people open shares: its template settings, style and security policy.

A page is one file that needs no network: names from the input are escaped, and nothing runs in
it but the script that its own policy names by hash.
"""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from virnucpro.core.text import counted, duration, percent, size

TEMPLATES = Path(__file__).parent / "templates"


def environment(folder: Path = TEMPLATES) -> Environment:
    """Templates of a folder, everything escaped, with filters for what pages print."""
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
