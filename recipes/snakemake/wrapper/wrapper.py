"""Run `virnucpro predict` for one sample; Snakemake provides the object `snakemake`."""

from pathlib import Path

from snakemake.shell import shell

output_dir = Path(snakemake.output.calls).parent  # noqa: F821
model = snakemake.params.get("model", "mini")  # noqa: F821
extra = snakemake.params.get("extra", "")  # noqa: F821
log = snakemake.log_fmt_shell(stdout=True, stderr=True)  # noqa: F821

# Snakemake has removed what a killed job left of the outputs; --force clears the rest.
shell(
    "virnucpro predict {snakemake.input:q} --output-dir {output_dir:q} --force --no-progress "
    "--model-type {model:q} --threads {snakemake.threads} {extra} {log}"
)
