"""`virnucpro report`: rebuild the page of a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from virnucpro.core.errors import UsageError


@click.command()
@click.argument("output_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(output_dir: Path) -> None:
    """Write report.html and virnucpro_mqc.json again from the tables in OUTPUT_DIR."""
    from virnucpro.pipeline.run_record import read_run
    from virnucpro.reports.html import write_report

    run = read_run(output_dir)
    if run is not None and run.get("status") == "running":
        raise UsageError(f"{output_dir} holds a run that did not end; predict --resume goes on")
    click.echo(write_report(output_dir))
