"""`virnucpro profile`: measure token budgets on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from virnucpro.cli.settings import embedding_dtype, model_home
from virnucpro.core.config import Config
from virnucpro.core.device import validate_and_get_device
from virnucpro.core.errors import UsageError
from virnucpro.core.files import make_writable

if TYPE_CHECKING:
    from virnucpro.models.specs import EncoderSpec
    from virnucpro.tools.budget_search import Trial

FLAGS = {"dna": "--dnabert-batch-size", "protein": "--esm-batch-size"}


@click.command()
@click.option(
    "--model", "-m", "name", required=True, type=click.Choice(["dnabert-s", "esm2", "mini"]),
    help="Which encoders: dnabert-s and esm2 must be installed; mini measures both of its own.",
)  # fmt: skip
@click.option(
    "--device", "-d", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or N."
)
@click.option(
    "--engine", type=click.Choice(["padded", "packed"]), default="padded", show_default=True,
    help="padded is what the batch sizes of predict are for; packed sizes its own by memory.",
)  # fmt: skip
@click.option("--min-batch", type=click.IntRange(min=16), default=512, show_default=True)
@click.option("--max-batch", type=click.IntRange(min=16), default=8192, show_default=True)
@click.option("--step", type=click.IntRange(min=16), help="Tokens between budgets; default: twice.")
@click.option(
    "--test-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure with the ORFs of this FASTA or FASTQ instead of built-in ones.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, path_type=Path), help="Also write JSON here."
)
@click.pass_context
def profile(
    ctx: click.Context, name: str, device: str, engine: Literal["padded", "packed"],
    min_batch: int, max_batch: int, step: int | None, test_file: Path | None, output: Path | None,
) -> None:  # fmt: skip
    """Find the best token budget on this machine.

    Embeds sequences with one budget after another (tokens per batch) and recommends the
    smallest whose rate is within 3% of the highest. A budget decides time and memory only.
    """
    if min_batch > max_batch:
        raise UsageError(f"--min-batch {min_batch} is above --max-batch {max_batch}")
    from virnucpro.tools.budget_search import best, sample_sequences, try_budgets

    config = ctx.ensure_object(dict).get("config") or Config.load(None, os.environ)
    chosen = validate_and_get_device(device)
    if output is not None:
        make_writable(output.parent)
    report: dict[str, object] = {"device": str(chosen), "engine": engine, "encoders": {}}
    encoders: dict[str, object] = {}
    for slot, spec in _encoders(name, model_home(config)).items():
        sequences = sample_sequences(slot, test_file)
        click.echo(f"{spec.name} on {chosen}, {engine} engine, {len(sequences)} sequences")
        trials = []
        for trial in try_budgets(
            spec,
            sequences,
            _budgets(min_batch, max_batch, step),
            chosen,
            engine,
            embedding_dtype(config),
        ):
            trials.append(trial)
            click.echo(_line(trial))
        winner = best(trials)
        flag = FLAGS[slot] if engine == "padded" else ""
        click.echo(
            f"  best: {flag or 'a batch of'} {winner.token_budget}{'' if flag else ' tokens'}"
        )
        encoders[spec.name] = {
            "flag": flag,
            "recommended": winner.token_budget,
            "trials": [asdict(trial) for trial in trials],
        }
    report["encoders"] = encoders
    if output is not None:
        from virnucpro.core.files import write_json

        write_json(output, report)
        click.echo(f"wrote {output}")


def _encoders(name: str, home: Path) -> dict[str, EncoderSpec]:
    from virnucpro.models.store import find_encoder, resolve_model

    if name == "mini":
        model = resolve_model("mini", None, home)
        return {"dna": model.dna, "protein": model.protein}
    if name == "dnabert-s":
        return {"dna": find_encoder("DNABERT-S", home)}
    return {"protein": find_encoder("esm2_t36_3B_UR50D", home)}


def _budgets(smallest: int, largest: int, step: int | None) -> list[int]:
    if step is not None:
        return list(range(smallest, largest + 1, step))
    budgets = [smallest]
    while 2 * budgets[-1] <= largest:
        budgets.append(2 * budgets[-1])
    return budgets


def _line(trial: Trial) -> str:
    if not trial.fits:
        return f"  {trial.token_budget:>7} tokens  does not fit"
    memory = "" if trial.peak_bytes is None else f"  {trial.peak_bytes / 2**30:.2f} GiB at the peak"
    rate = f"{trial.tokens_per_s:>10,.0f} tokens/s  {100 * trial.efficiency:.1f}% real tokens"
    return f"  {trial.token_budget:>7} tokens  {rate}{memory}"
