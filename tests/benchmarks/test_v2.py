"""Suites `v2-validation`, `v2-scaling`, `v2-throughput` and `v1-comparison`: the packed path."""

from __future__ import annotations

import csv
import json
import os
import time

import numpy as np
from bench_models import coding_contigs, efficiency, proteins, stage_facts, write_fasta

from virnucpro.core.records import Tokens
from virnucpro.engines.base import EngineOptions, choose_dtype, make_engine
from virnucpro.models.load import load_encoder, make_tokenizer
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.prediction import run_prediction
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import Compute, ModelChoice, Output, PredictionSettings

JOB_OF_A_GPU = 10_000  # sequences; below, loading outweighs the work
CPU_TOLERANCE, GPU_TOLERANCE = 1e-5, 1e-2


def predict(fasta, out, home, *, v2, resume=False, per_file=10_000):
    """Run the whole pipeline; returns seconds."""
    settings = PredictionSettings(
        model=ModelChoice(model_type="500", home=home),
        compute=Compute(sequences_per_file=per_file),
        output=Output(keep_intermediate=True, progress=False, report=False, resume=resume),
    )
    config = RuntimeConfig(enable_checkpointing=resume, checkpoint_dir=out / ".checkpoints")
    start = time.perf_counter()
    code = run_prediction(
        [fasta], out, settings, use_v2_architecture=v2, runtime_config=config if v2 else None
    )
    assert code == 0
    return time.perf_counter() - start


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def rectangles(gpus):
    """Why the share of real tokens has no requirement here; empty if it has one."""
    return "" if gpus else "packed kernels need a GPU: the CPU computes small rectangles"


def too_small(gpus, sequences, needed=1):
    """Why a requirement on speed does not apply here; empty if it does."""
    if gpus < needed:
        return f"needs {needed} GPUs, this machine has {gpus}: tiny models on the CPU"
    if sequences < JOB_OF_A_GPU:
        return "job too small: use --data-size large"
    return ""


class TestProductionValidation:
    suite = "v2-validation"

    def test_production_workload(self, figures, home, sequences, gpus, tmp_path):
        """All records of a FASTA get their row; counts add up; a resumed run changes nothing."""
        fasta = write_fasta(tmp_path / "in.fa", coding_contigs(sequences))
        out = tmp_path / "out"
        seconds = predict(fasta, out, home, v2=True)
        calls = table(out / "calls.tsv")
        figures.at_most("records without a row in calls.tsv", sequences - len(calls), 0)
        run = json.loads((out / "run.json").read_text())
        scored = len(table(out / "in_merged" / "prediction_results.txt"))
        orfs = run["stages"]["translation"]["orfs"]
        figures.at_most("ORFs without a score", orfs - scored, 0)
        share = 100 * efficiency(stage_facts(out / "esm_v2"))
        figures.at_least("real tokens over slots", share, 97.0, "%", unless=rectangles(gpus))
        figures.note("whole pipeline", seconds, "s", "lower")
        figures.note("records per second", sequences / seconds, "1/s", "higher")
        before = (out / "calls.tsv").read_bytes()
        (out / "in_merged" / "prediction_results_highestscore.csv").unlink()
        again = predict(fasta, out, home, v2=True, resume=True)
        changed = float((out / "calls.tsv").read_bytes() != before)
        figures.at_most("calls changed by --resume", changed, 0)
        figures.note("--resume of a finished run without one result", again, "s", "lower")


class TestV2Scaling:
    suite = "v2-scaling"

    def test_two_ranks(self, figures, home, sequences, gpus, quick, tmp_path):
        """The packed protein stage on one rank and on two, loading left out."""
        count = sequences if gpus else max(sequences, 500 if quick else 2_000)
        fasta = write_fasta(tmp_path / "p.faa", proteins(count))
        spec = resolve_model("500", None, home).protein
        took, ids = {}, {}
        for ranks in (1, 2) if gpus != 1 else (1,):
            out = tmp_path / str(ranks)
            out.mkdir()
            config = RuntimeConfig(checkpoint_dir=out / "shards")
            path, failed = run_multi_gpu_inference(
                [fasta], out, {"encoder_spec": spec}, ranks, config
            )
            assert failed == []
            facts = stage_facts(out)
            took[ranks] = facts["seconds"] - facts["seconds_until_first_rank_ready"]
            ids[ranks] = facts["sequences"]
            figures.note(f"{count} proteins, {ranks} ranks, {path.name}", took[ranks], "s", "lower")
        figures.at_most("sequences lost", count - min(ids.values()), 0)
        if 2 in took:
            cpus = os.cpu_count() or 1
            unless = too_small(gpus, sequences, needed=2)
            name = f"2 ranks against 1, {'GPUs' if gpus else f'CPU of {cpus} cores'}"
            figures.at_least(name, took[1] / took[2], 1.9, "x", unless=unless)


class TestParameterTuning:
    suite = "v2-throughput"

    def test_threads_and_budgets(self, figures, home, device, sequences, quick, gpus):
        """Every combination gives the same vectors; the table says which is fastest."""
        spec = resolve_model("500", None, home).protein
        encoder = load_encoder(spec, device, choose_dtype("auto", device))
        tokenizer = make_tokenizer(spec)
        texts = proteins(max(sequences, 200))
        items = [Tokens(str(i), tokenizer.encode(text)) for i, text in enumerate(texts)]
        tokens = sum(map(len, items))
        first, worst, rates, shares = None, 0.0, {}, []
        for threads in (0, 1) if quick else (0, 1, 2):
            for budget in (1_024, 4_096) if quick else (1_024, 4_096, 16_384, 65_536):
                options = EngineOptions(token_budget=budget, feeding_threads=threads, compile="off")
                engine = make_engine("packed", encoder, device=device, options=options)
                start = time.perf_counter()
                rows = {
                    seq_id: row
                    for part in engine.embed(items)
                    for seq_id, row in zip(part.seq_ids, part.vectors, strict=True)
                }
                rates[threads, budget] = tokens / (time.perf_counter() - start)
                vectors = np.stack([rows[item.seq_id] for item in items])
                first = vectors if first is None else first
                worst = max(worst, relative_error(vectors, first))
                shares.append(100 * engine.stats.efficiency)
        for (threads, budget), rate in rates.items():
            name = f"{threads} feeding threads, {budget} tokens a batch"
            figures.note(name, rate, "tokens/s", "higher")
        limit = 1.5e-3 if gpus else 1e-4
        figures.at_most("relative difference between combinations", worst, limit)
        unless = rectangles(gpus)
        figures.at_least("best share of real tokens", max(shares), 97.0, "%", unless=unless)


def relative_error(found, expected):
    norms = np.linalg.norm(expected, axis=1)
    return float((np.linalg.norm(found - expected, axis=1) / norms).max())


class TestV1Comparison:
    suite = "v1-comparison"

    def test_both_paths(self, figures, home, sequences, gpus, tmp_path):
        """`--parallel --v1-fallback` against `--parallel` on the same input, in one run."""
        fasta = write_fasta(tmp_path / "in.fa", coding_contigs(sequences))
        took = {
            name: predict(fasta, tmp_path / name, home, v2=name == "v2") for name in ("v1", "v2")
        }
        v1, v2 = (table(tmp_path / name / "calls.tsv") for name in ("v1", "v2"))
        assert [row["id"] for row in v1] == [row["id"] for row in v2]
        equal = sum(a["call"] == b["call"] for a, b in zip(v1, v2, strict=True))
        figures.at_least("calls that agree", 100 * equal / len(v1), 99.0 if gpus else 100.0, "%")
        pairs = [
            (float(a["p_virus"]), float(b["p_virus"]))
            for a, b in zip(v1, v2, strict=True)
            if a["p_virus"] and b["p_virus"]
        ]
        worst = max(abs(a - b) for a, b in pairs)
        limit = GPU_TOLERANCE if gpus else CPU_TOLERANCE
        figures.at_most("largest difference of p_virus", worst, limit)
        for name, seconds in took.items():
            figures.note(f"{name} path, whole pipeline", seconds, "s", "lower")
        stages = [json.loads((tmp_path / name / "run.json").read_text())["stages"] for name in took]
        v1_s, v2_s = (part["protein_features"]["seconds"] for part in stages)
        unless = too_small(gpus, sequences)
        if gpus and not unless:
            unless = "4x is over the float32 engine of 1.0; here both paths compute in float16"
        figures.at_least("protein stage, v1 over v2", v1_s / v2_s, 4.0, "x", unless=unless)
