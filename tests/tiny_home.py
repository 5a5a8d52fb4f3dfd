"""A home of small models in the published formats, as most runs of the tests use it."""

from pathlib import Path

from tiny_published import install_published

from virnucpro.models.store import install_local


def make_tiny_home(home: Path) -> Path:
    """Install encoders and the classifiers `300` and `500` in `home`."""
    sources = home.parent / f"{home.name}-sources"
    install_published(home, sources)
    install_local(sources / "500_model.pth", "300", home)
    return home
