"""VirNucPro tells viral from non-viral DNA in short sequences: reads and contigs.

`virnucpro.predict` calls records, `virnucpro.Session` keeps a model loaded between calls,
`virnucpro.embed` gives vectors; see `virnucpro.api`.
"""

__version__ = "2.0.0"
__all__ = ["PredictionResult", "Session", "__version__", "embed", "predict"]


def __dir__() -> list[str]:
    """What there is, for completion; importing it is left to `__getattr__`."""
    return __all__


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first asked for: `import virnucpro` stays light."""
    if name in ("PredictionResult", "Session", "embed", "predict"):
        from importlib import import_module

        return getattr(import_module("virnucpro.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
