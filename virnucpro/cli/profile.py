"""`virnucpro profile`: measure token budgets on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click
from click import option

from virnucpro.cli import options
from virnucpro.cli.options import TOKENS
from virnucpro.cli.settings import config_of, embedding_dtype, model_home
from virnucpro.core.device import validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.files import make_writable, write_json

FLAGS = {"dna": "--dnabert-batch-size", "protein": "--esm-batch-size"}


@click.command()
@option("--model", "-m", "name", required=True, type=click.Choice(["dnabert-s", "esm2", "mini"]),
        help="dnabert-s and esm2 must be installed; mini measures both of its own.")  # fmt: skip
@options.device
@option("--engine", type=click.Choice(["padded", "packed"]), default="padded", show_default=True,
        help="padded is what the batch sizes of predict are for; packed sizes its own "
        "by memory.")  # fmt: skip
@option("--min-batch", type=TOKENS, default=512, show_default=True)
@option("--max-batch", type=TOKENS, default=8192, show_default=True)
@option("--step", type=TOKENS, help="Tokens between budgets; default: twice.")
@option("--test-file", type=options.FILE,
        help="Measure with the ORFs of this FASTA or FASTQ instead of built-in ones.")  # fmt: skip
@option("--output", "-o", type=options.NEW_FILE, help="Also write JSON here.")
@click.pass_context
def profile(
    ctx: click.Context, name: str, device: str, engine: Literal["padded", "packed"],
    min_batch: int, max_batch: int, step: int | None, test_file: Path | None, output: Path | None,
) -> None:  # fmt: skip
    """Find the best token budget on this machine.

    Embeds sequences with one budget after another (tokens per batch) and recommends the
    smallest whose rate is within 3% of the highest. A budget decides time and memory only.
    """
    from virnucpro.models.store import find_encoder, resolve_model
    from virnucpro.tools.budget_search import best, sample_sequences, try_budgets

    if min_batch > max_batch:
        raise UsageError(f"--min-batch {min_batch} is above --max-batch {max_batch}")
    config = config_of(ctx)
    home, chosen = model_home(config), validate_and_get_device(device)
    if output is not None:
        make_writable(output.parent)
    if name == "mini":
        model = resolve_model("mini", None, home)
        specs = {"dna": model.dna, "protein": model.protein}
    elif name == "dnabert-s":
        specs = {"dna": find_encoder("DNABERT-S", home)}
    else:
        specs = {"protein": find_encoder("esm2_t36_3B_UR50D", home)}
    budgets = [min_batch]
    while (larger := budgets[-1] + (step or budgets[-1])) <= max_batch:
        budgets.append(larger)
    encoders: dict[str, object] = {}
    for slot, spec in specs.items():
        sequences = sample_sequences(slot, test_file)
        click.echo(f"{spec.name} on {chosen}, {engine} engine, {len(sequences)} sequences")
        trials = []
        dtype = embedding_dtype(config)
        for trial in try_budgets(spec, sequences, budgets, chosen, engine, dtype):
            trials.append(trial)
            rate = "does not fit"
            if trial.fits:
                rate = f"{trial.tokens_per_s:>10,.0f} tokens/s"
                rate += f"  {100 * trial.efficiency:.1f}% real tokens"
            if trial.fits and trial.peak_bytes is not None:
                rate += f"  {trial.peak_bytes / 2**30:.2f} GiB at the peak"
            click.echo(f"  {trial.token_budget:>7} tokens  {rate}")
        winner = best(trials).token_budget
        flag = FLAGS[slot] if engine == "padded" else ""
        click.echo(f"  best: {flag} {winner}" if flag else f"  best: a batch of {winner} tokens")
        tried = [asdict(trial) for trial in trials]
        encoders[spec.name] = {"flag": flag, "recommended": winner, "trials": tried}
    if output is not None:
        write_json(output, {"device": str(chosen), "engine": engine, "encoders": encoders})
        click.echo(f"wrote {output}")
