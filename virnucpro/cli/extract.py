"""`virnucpro extract`: records of a call back out of the files that a run read."""

import sys
from pathlib import Path

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import flag
from virnucpro.core.errors import UsageError
from virnucpro.core.text import clipped


@click.command()
@click.argument("output_dir", type=options.FOLDER)
@click.argument("input_files", nargs=-1, required=True, type=options.FILE)
@option("--call", "calls", multiple=True, default=["virus"], show_default=True,
        type=click.Choice(["virus", "non-virus", "uncertain"]),
        help="May be given again.")  # fmt: skip
@option("--output", "-o", "targets", multiple=True, default=["-"], show_default=True,
        type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
        help="Where to write; packed where the name ends in .gz. Given twice, one for each mate "
        "of pairs, which else come in turn.")  # fmt: skip
@flag("--force", "-f", help="Write over files that are there.")
@options.reference
def extract(
    output_dir: Path, input_files: tuple[Path, ...], calls: tuple[str, ...],
    targets: tuple[Path, ...], force: bool, reference: Path | None,
) -> None:  # fmt: skip
    """Write the records of INPUT_FILES that the run in OUTPUT_DIR called a virus.

    INPUT_FILES is an input of the run, or both files of a pair; it may have moved, as it is known
    by its content. Records come out as they are there, FASTA, FASTQ or BAM; of pairs both mates.
    """
    from virnucpro.tools.extract import extract as write_records

    for target in targets:
        if target.is_file() and not force:
            raise UsageError(f"{target} exists; --force writes over it")
    written, total = write_records(
        output_dir, input_files, calls, targets, sys.stdout.buffer, reference
    )
    names = clipped(", ".join(map(str, input_files)))
    click.echo(f"{written:,} of {total:,} records of {names}: {', '.join(calls)}", file=sys.stderr)
