"""Whole jobs, from FASTQ or FASTA to calls, against the protein model alone, on GPUs.

    python benchmarks/benchmark_job.py --out job.json --reads 200000 --contigs 2000 --gpus 1 2 \
        --tokenizer .bench/tokenizer.json --windows .bench/windows.fa
    python benchmarks/benchmark_job.py --out tiny.json --reads 200 --tiny ...    # CPU, a smoke test

Weights are random at the published size. A job is a process of its own, and its time holds
Python's start, loading from files in memory, tables and report. `over_model` is that time over the
one that the protein model alone takes for the same tokens on as many GPUs, batches on the device,
measured in the same run. Kernels are in Triton's cache, as from a machine's second run on.
`busy_percent` is what the driver counts from the job's start to its end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np


def main() -> None:
    from engine_tools import Bench

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON, written as it goes")
    parser.add_argument("--reads", type=int, default=0, help="of 150 nt")
    parser.add_argument("--contigs", type=int, default=0, help="of 1 to 20 kb")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1], help="jobs on so many GPUs")
    parser.add_argument("--precisions", nargs="+", default=["auto"], help="jobs with these")
    parser.add_argument("--tokenizer", type=Path, default=Path(".bench/tokenizer.json"))
    parser.add_argument("--windows", type=Path, default=Path(".bench/windows.fa"))
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/virnucpro-job"))
    parser.add_argument("--commit", default="", help="kept with the results")
    parser.add_argument("--tiny", action="store_true", help="toy networks on the CPU")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    bench = Bench(args.out, args.work, args.tiny)
    bench.results |= {
        "title": "Whole jobs",
        "commit": args.commit,
        "command": " ".join(["python benchmarks/benchmark_job.py", *sys.argv[1:]]),
    }
    model = made_model(bench, args.tokenizer)
    text = "".join(x for x in args.windows.read_text().split("\n") if not x.startswith(">"))
    inputs = {}
    if args.reads:
        inputs["reads"] = write_reads(args.work / "reads.fastq", text, args.reads)
    if args.contigs:
        inputs["contigs"] = write_contigs(args.work / "contigs.fa", text, args.contigs)
    for precision in args.precisions:
        rates = {name: model_alone(bench, model, path, precision) for name, path in inputs.items()}
        for gpus in args.gpus:
            for name, path in inputs.items():
                one_job(bench, model, path, f"{name} {gpus} GPU {precision}", gpus, rates[name])
    shutil.rmtree(args.work, ignore_errors=True)


def made_model(bench, tokenizer: Path) -> dict[str, object]:
    """Random encoders and a random classifier in files; what `job` makes a model of."""
    import torch
    from engine_tools import hf_esm2, save_dnabert, save_esm2
    from safetensors.torch import save_file

    network = hf_esm2(bench, torch.float32)
    protein = save_esm2(bench, network, half=False)
    del network
    bench.free()
    dna = save_dnabert(bench, tokenizer)
    width = dna.dim + protein.dim
    torch.manual_seed(0)
    classifier = {
        "hidden_layer.weight": torch.randn(512, width) / width**0.5,
        "hidden_layer.bias": torch.zeros(512), "bn1.weight": torch.ones(512),
        "bn1.bias": torch.zeros(512), "bn1.running_mean": torch.zeros(512),
        "bn1.running_var": torch.ones(512), "output_layer.weight": torch.randn(2, 512) / 4,
        "output_layer.bias": torch.zeros(2),
    }  # fmt: skip
    path = bench.work / "classifier.safetensors"
    save_file(classifier, path)
    return {"dna": asdict(dna), "protein": asdict(protein), "classifier": path}


def spec_of(model):
    """The model that these files make, with the published model's chunks and frames."""
    from virnucpro.models.specs import EncoderSpec, ModelSpec
    from virnucpro.sequences.orfs import OrfPolicy

    dna, protein = (
        EncoderSpec(**{**model[slot], "path": Path(model[slot]["path"])})
        for slot in ("dna", "protein")
    )
    return ModelSpec(
        name="random", dna=dna, protein=protein, classifier=Path(model["classifier"]),
        classifier_sha256="", orf_policy=OrfPolicy("open-frame"), chunk_nt=500,
    )  # fmt: skip


def write_reads(path: Path, text: str, count: int) -> Path:
    """Reads of 150 nt from anywhere in `text`."""
    starts = np.random.default_rng(0).integers(0, len(text) - 150, count).tolist()
    quality = "I" * 150
    with path.open("w") as file:
        for i, at in enumerate(starts):
            file.write(f"@read_{i}\n{text[at : at + 150]}\n+\n{quality}\n")
    return path


def write_contigs(path: Path, text: str, count: int) -> Path:
    """Contigs of 1 to 20 kb, short ones more often."""
    draw = np.random.default_rng(1)
    lengths = np.exp(draw.uniform(np.log(1_000), np.log(20_000), count)).astype(int).tolist()
    starts = draw.integers(0, len(text) - 20_000, count).tolist()
    with path.open("w") as file:
        for i, (at, length) in enumerate(zip(starts, lengths, strict=True)):
            file.write(f">contig_{i}\n{text[at : at + length]}\n")
    return path


def model_alone(bench, model, path: Path, precision: str) -> float:
    """Tokens a second of the protein model for some of the input's ORFs, batches prepared."""
    from benchmark_engine import model_only
    from engine_tools import tokens_of

    from virnucpro.encoders.load import load_encoder
    from virnucpro.encoders.tokenizers import make_tokenizer
    from virnucpro.encoders.transformer import to_fp8
    from virnucpro.engines.base import EngineOptions
    from virnucpro.engines.runner import BatchEngine
    from virnucpro.pipeline.input_pass import Rules, Unit, input_pass
    from virnucpro.sequences.fasta import read_records

    spec = spec_of(model)
    events = input_pass(read_records([path]), Rules(spec.chunk_nt, spec.orf_policy), 10_000)
    unit = next(event for event in events if isinstance(event, Unit))
    start = time.perf_counter()
    encoder = load_encoder(spec.protein, bench.device, bench.half)
    bench.sync()
    bench.put("load", f"{path.stem} {precision}", {"seconds": time.perf_counter() - start})
    if precision == "fp8":
        encoder = to_fp8(encoder)
    engine = BatchEngine("packed", encoder, device=bench.device, options=EngineOptions())
    items = tokens_of(make_tokenizer(spec.protein), [p.decode() for p in unit.protein])
    rate = model_only(bench, engine, items, most=2)
    bench.put("model alone", f"{path.stem} {precision}", {"tok_s": rate}, f"{rate:,.0f} tok/s")
    dna = load_encoder(spec.dna, bench.device, bench.half)
    BatchEngine("packed", dna, device=bench.device)  # leaves its kernels in Triton's cache
    del engine, encoder, dna
    bench.free()
    return rate


def one_job(bench, model, path: Path, name: str, gpus: int, rate: float) -> None:
    """One job in a process of its own."""
    from engine_tools import Busy

    request = {
        "model": model, "input": path, "out": bench.work / "out", "gpus": gpus if bench.cuda else 0,
        "precision": name.split()[-1], "facts": bench.work / "facts.json",
    }  # fmt: skip
    shutil.rmtree(request["out"], ignore_errors=True)
    command = [sys.executable, "-c", "import benchmark_job; benchmark_job.job()"]
    place = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with Busy(gpus if bench.cuda else 0) as busy:
        began = time.monotonic()
        subprocess.run(
            [*command, json.dumps(request, default=str)],
            env={**os.environ, "PYTHONPATH": place, "TOKENIZERS_PARALLELISM": "false"}, check=True,
        )  # fmt: skip
        ended = time.monotonic()
    facts = json.loads(request["facts"].read_text())
    dna, protein = (facts["stats"][slot] for slot in ("dna", "protein"))
    wall = ended - began
    alone = protein["tokens"] / rate / gpus
    value = {
        "wall_s": wall, "model_alone_s": alone, "over_model": wall / alone,
        "busy_percent": busy.mean(began, ended),
        "busy_percent_while_scoring": busy.mean(facts["marks"]["ready"], facts["marks"]["scored"]),
        "orfs": protein["sequences"], "dna_seq_s": dna["sequences"] / dna["seconds"],
        "protein_tok_s": protein["tokens"] / protein["seconds"],
        "marks_s": {mark: round(at - began, 2) for mark, at in facts["marks"].items()},
        "stages": facts["stages"], "agreement": facts["agreement"],
    }  # fmt: skip
    bench.put("jobs", name, value)


def job() -> None:
    """What the process of a job runs: `virnucpro predict`, watched from outside its loop."""
    from unittest import mock

    from virnucpro.core.log import setup_logging
    from virnucpro.pipeline import prediction, stream
    from virnucpro.pipeline.settings import Compute, Output, PredictionSettings
    from virnucpro.pipeline.worker_loop import Done

    request = json.loads(sys.argv[1])
    setup_logging(verbose=False, quiet=False)
    marks, per_worker = {"imported": time.monotonic()}, []

    class Watch:
        """An executor that notes when outcomes come, and what the engines did."""

        def __init__(self, inner) -> None:
            self.inner = inner

        def run(self, job, items, on_rows) -> Iterator[Done]:
            for outcome in self.inner.run(job, items, on_rows):
                marks.setdefault("first unit", time.monotonic())
                marks["scored"] = time.monotonic()
                per_worker.append(outcome.stats)
                yield outcome

        def close(self) -> None:
            self.inner.close()

    make = stream.make_executor
    load = mark_after(marks, "ready")
    settings = PredictionSettings(
        compute=Compute(
            device="cuda:0" if request["gpus"] else "cpu",
            gpus=tuple(range(request["gpus"])) if request["gpus"] > 1 else (),
            dtype=request["precision"],
        ),
        output=Output(progress=False, force=True),
    )
    with (
        mock.patch.object(prediction, "choose_model", lambda _: spec_of(request["model"])),
        mock.patch.object(stream, "make_executor", lambda *given: Watch(make(*given))),
        load,
    ):
        code = prediction.run_prediction([Path(request["input"])], Path(request["out"]), settings)
    marks["ended"] = time.monotonic()
    marks.setdefault("ready", marks["first unit"])
    run = json.loads((Path(request["out"]) / "run.json").read_text())
    facts = {"code": code, "marks": marks, "stats": summed(per_worker), "stages": run["stages"],
             "agreement": run.get("agreement")}  # fmt: skip
    Path(request["facts"]).write_text(json.dumps(facts))


def mark_after(marks, name):
    """Note when a model is loaded in this process."""
    from unittest import mock

    from virnucpro.scores.scorer import Scorer

    load = Scorer.load

    def noted(self) -> None:
        load(self)
        marks.setdefault(name, time.monotonic())

    return mock.patch.object(Scorer, "load", noted)


def summed(per_worker) -> dict[str, dict[str, float]]:
    """Work of all workers: their counters only grow, and each device has its own."""
    last: dict[tuple[str, str], dict[str, float]] = {}
    for stats in per_worker:
        for slot, one in stats.items():
            last[slot, one["device"]] = one
    return {
        slot: {
            what: sum(one[what] for (name, _), one in last.items() if name == slot)
            for what in ("sequences", "tokens", "seconds")
        }
        for slot in ("dna", "protein")
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    main()
