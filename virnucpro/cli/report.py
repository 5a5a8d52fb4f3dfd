"""`virnucpro report`: rebuild the page of a finished run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("output_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(output_dir: Path) -> None:
    """Write report.html and virnucpro_mqc.json again from the tables in OUTPUT_DIR."""
    from virnucpro.reports.html import write_report

    click.echo(write_report(output_dir))
