"""Suites `v2-validation`, `v2-scaling`, `v2-throughput` and `v1-comparison`: the packed path."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
from bench_models import coding_contigs, proteins, seconds_of, write_fasta
from rank_here import rank_job, rows, serve

from virnucpro.models.store import resolve_model
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.prediction import run_prediction
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import Compute, ModelChoice, Output, PredictionSettings

JOB_OF_A_GPU = 10_000  # sequences; below, loading outweighs the work
CPU_TOLERANCE, GPU_TOLERANCE = 1e-5, 1e-2


def predict(fasta, out, home, *, v2, resume=False):
    """Run the whole pipeline; returns seconds."""
    settings = PredictionSettings(
        model=ModelChoice(model_type="500", home=home),
        compute=Compute(sequences_per_file=10_000),
        output=Output(keep_intermediate=True, progress=False, report=False, resume=resume),
    )
    config = RuntimeConfig(enable_checkpointing=resume, checkpoint_dir=out / ".checkpoints")

    def run():
        how = {"use_v2_architecture": v2, "runtime_config": config if v2 else None}
        assert run_prediction([fasta], out, settings, **how) == 0

    return seconds_of(run)


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def stage_facts(folder):
    """What the packed stage wrote about itself."""
    return json.loads((folder / "stage.json").read_text())


def rectangles(gpus):
    """Why the share of real tokens has no requirement here; empty if it has one."""
    return "" if gpus else "packed kernels need a GPU: the CPU computes small rectangles"


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
        ranks = [rank for rank in stage_facts(out / "esm_v2")["ranks"] if rank]
        tokens, slots = (sum(rank[name] for rank in ranks) for name in ("tokens", "slots"))
        share = 100 * tokens / slots
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
            unless = "job too small: use --data-size large" if sequences < JOB_OF_A_GPU else ""
            unless = f"needs 2 GPUs, this machine has {gpus}" if gpus < 2 else unless
            name = f"2 ranks against 1, {'GPUs' if gpus else f'CPU of {os.cpu_count()} cores'}"
            figures.at_least(name, took[1] / took[2], 1.9, "x", unless=unless)


class TestParameterTuning:
    suite = "v2-throughput"

    def test_readers_and_budgets(self, figures, home, device, sequences, quick, gpus, tmp_path):
        """Every combination gives the same vectors; the table says which is fastest."""
        spec = resolve_model("500", None, home).protein
        texts = proteins(max(sequences, 200))
        fasta = write_fasta(tmp_path / "p.faa", texts)
        first, worst, shares = None, 0.0, []
        for readers in (0, 1) if quick else (0, 1, 2, 4):
            for budget in (1_024, 4_096) if quick else (1_024, 4_096, 16_384, 65_536):
                job, shards = rank_job(
                    tmp_path / f"{readers}_{budget}", spec, [fasta], str(device), strides=4,
                    dataloader_workers=readers, token_budget=budget, compile="off",
                )  # fmt: skip
                served = serve(job, shards)
                assert len(served.readers) == readers
                found = rows(job)
                vectors = np.stack([found[f"s{i}"] for i in range(len(texts))])
                first = vectors if first is None else first
                error = np.linalg.norm(vectors - first, axis=1) / np.linalg.norm(first, axis=1)
                worst = max(worst, float(error.max()))
                stats = served.said[-1].stats
                shares.append(100 * stats["efficiency"])
                name = f"{readers} reader processes, {budget} tokens a batch"
                figures.note(name, stats["tokens"] / served.seconds, "tokens/s", "higher")
        limit = 1.5e-3 if gpus else 1e-4
        figures.at_most("relative difference between combinations", worst, limit)
        unless = rectangles(gpus)
        figures.at_least("best share of real tokens", max(shares), 97.0, "%", unless=unless)


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
        figures.note("protein stage, v1 over v2", v1_s / v2_s, "x", "higher")
