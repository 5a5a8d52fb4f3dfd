"""VirNucPro tells viral from non-viral DNA in short sequences: reads and contigs.

`virnucpro.predict` calls records, `virnucpro.embed` gives vectors; see `virnucpro.api`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from virnucpro.api import PredictionResult, embed, predict

__version__ = "2.0.0"
__all__ = ["PredictionResult", "__version__", "embed", "predict"]


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first asked for: `import virnucpro` stays light."""
    if name in ("PredictionResult", "embed", "predict"):
        from virnucpro import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
