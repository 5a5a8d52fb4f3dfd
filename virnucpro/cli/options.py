"""Types of values, and the options that several commands take."""

from functools import partial
from pathlib import Path
from typing import Any

import click
from click import option

from virnucpro.core.config import MODEL_TYPES

LEAST = {"expected_length": 30, "min_length": 0, "sample_n": 1, "threads": 1}
AT_LEAST_0, AT_LEAST_1 = click.IntRange(min=0), click.IntRange(min=1)
flag = partial(option, is_flag=True)
TOKENS = click.IntRange(min=16)


class OutputFolder(click.Path):
    """A folder to write; `-` would make one of that name, where a pipe was meant."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse `-`."""
        if str(value) == "-":
            self.fail("results are several files: give a folder, not standard output", param, ctx)
        return super().convert(value, param, ctx)


PLACE = click.Path(path_type=Path)
INPUT = click.Path(path_type=Path, allow_dash=True, readable=False)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUTPUT = OutputFolder(path_type=Path)
NEW_FOLDER = OutputFolder(file_okay=False, path_type=Path)

model_type = option(
    "--model-type", "-m", type=click.Choice(MODEL_TYPES),
    help="Model: mini ships with the package (default); 300 and 500 are the published ones; "
    "custom is what --model-path gives.",
)  # fmt: skip
model_path = option(
    "--model-path", "-p", type=PLACE,
    help="A custom model: its folder, or the name that it was imported under.",
)  # fmt: skip
expected_length = option(
    "--expected-length", "-e", type=click.IntRange(min=LEAST["expected_length"]),
    help="Chunk length (nt); default: the model's (300 for -m 300, else 500).",
)  # fmt: skip
min_length = option("--min-length", type=AT_LEAST_0, help="Shortest record to score (nt).")
paired = flag("--paired", help="Take the inputs two by two for files of mates.")
interleaved = flag("--interleaved", help="Take the records of an input two by two for mates.")
reference = option("--reference", type=NEW_FILE, help="FASTA of CRAM inputs.")
device = option("--device", "-d", default="auto", help="auto (default), cpu, cuda, cuda:N or N.")
as_json = flag("--json", "as_json", help="Print JSON.")
