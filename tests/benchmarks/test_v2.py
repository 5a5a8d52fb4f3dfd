"""Suites `v2-validation`, `v2-scaling`, `v2-throughput` and `v1-comparison`: the packed path."""

import json
import os
from dataclasses import replace

import numpy as np
from bench_models import coding_contigs, proteins, seconds_of, write_fasta
from runs_here import predict_here, rows_of

from virnucpro.engines.base import EngineOptions
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.features import EmbedJob, SplitFile, read_vectors
from virnucpro.pipeline.multi_gpu_inference import choose_devices
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.worker_loop import InProcess
from virnucpro.pipeline.workers import Workers, WorkerSettings

JOB_OF_A_GPU = 10_000  # sequences; below, loading outweighs the work
CPU_TOLERANCE, GPU_TOLERANCE = 1e-5, 1e-2
UNITS = 16
PACKED = EngineOptions(engine="packed")


def predict(fasta, out, home, *, v2, resume=False):
    config = RuntimeConfig(enable_checkpointing=resume, checkpoint_dir=out / ".checkpoints")

    def work():
        assert predict_here(
            home, fasta, out, policy=None, device="auto", threads=None, sequences_per_file=10_000,
            staged=True, output={"keep_intermediate": True, "resume": resume},
            how={"use_v2_architecture": v2, "runtime_config": config if v2 else None},
        ) == 0  # fmt: skip

    return seconds_of(work)


def shard(fasta):
    return SplitFile(input_file=fasta, output_file=fasta.with_suffix(".h5"), layout="shard")


def seconds_of_units(executor, job, units):
    embedded = []

    def embed():
        for outcome in executor.run(job, enumerate(units), lambda rows: None):
            embedded.append(outcome.result[0])

    return seconds_of(embed), sum(embedded)


def rectangles(gpus):
    return "" if gpus else "packed kernels need a GPU: the CPU computes small rectangles"


class TestProductionValidation:
    suite = "v2-validation"

    def test_production_workload(self, figures, home, sequences, gpus, tmp_path):
        fasta = write_fasta(tmp_path / "in.fa", coding_contigs(sequences))
        out = tmp_path / "out"
        seconds = predict(fasta, out, home, v2=True)
        lost = sequences - len(rows_of(out))
        figures.at_most("records without a row in calls.tsv", lost, 0)
        run = json.loads((out / "run.json").read_text())
        scored = len(rows_of(out, "in_merged/prediction_results.txt"))
        figures.at_most("ORFs without a score", run["stages"]["reading"]["orfs"] - scored, 0)
        stage = json.loads((out / "esm_v2" / "stage.json").read_text())
        ranks = [rank for rank in stage["ranks"] if rank]
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
        count = sequences if gpus else max(sequences, 500 if quick else 2_000)
        texts, job = proteins(count), EmbedJob(resolve_model("500", None, home).protein, PACKED)
        units = [shard(write_fasta(tmp_path / f"{k}.faa", texts[k::UNITS])) for k in range(UNITS)]
        took, done = {}, {}
        for ranks in (1, 2) if gpus != 1 else (1,):
            threads = max(1, (os.cpu_count() or 1) // ranks)
            devices = choose_devices(ranks, ())
            pool = Workers([WorkerSettings(device=name, threads=threads) for name in devices])
            try:
                seconds_of_units(pool, job, units[:ranks])
                took[ranks], done[ranks] = seconds_of_units(pool, job, units)
            finally:
                pool.close()
            figures.note(f"{count} proteins, {ranks} ranks", took[ranks], "s", "lower")
        figures.at_most("sequences lost", count - min(done.values()), 0)
        if 2 in took:
            unless = "job too small: use --data-size large" if sequences < JOB_OF_A_GPU else ""
            unless = f"needs 2 GPUs, this machine has {gpus}" if gpus < 2 else unless
            name = f"2 ranks against 1, {'GPUs' if gpus else f'CPU of {os.cpu_count()} cores'}"
            figures.at_least(name, took[1] / took[2], 1.9, "x", unless=unless)


class TestParameterTuning:
    suite = "v2-throughput"

    def test_readers_and_budgets(self, figures, home, device, sequences, quick, gpus, tmp_path):
        spec = resolve_model("500", None, home).protein
        unit = shard(write_fasta(tmp_path / "p.faa", proteins(max(sequences, 200))))
        first, worst, shares = None, 0.0, []
        for readers in (0, 1) if quick else (0, 1, 2, 4):
            for budget in (1_024, 4_096) if quick else (1_024, 4_096, 16_384, 65_536):
                options = replace(
                    PACKED, token_budget=budget, feeding_threads=min(1, readers),
                    tokenizer_threads=max(1, readers),
                )  # fmt: skip
                here, job = InProcess(str(device)), EmbedJob(spec, options)
                seconds_of_units(here, job, [unit])
                before = here.models.engine(spec, options).stats.tokens
                seconds, _ = seconds_of_units(here, job, [unit])
                stats = here.models.engine(spec, options).stats
                vectors = read_vectors(unit.output_file).vectors
                first = vectors if first is None else first
                error = np.linalg.norm(vectors - first, axis=1) / np.linalg.norm(first, axis=1)
                worst = max(worst, float(error.max()))
                shares.append(100 * stats.efficiency)
                name = f"{readers} threads that tokenise, {budget} tokens a batch"
                figures.note(name, (stats.tokens - before) / seconds, "tokens/s", "higher")
        limit = 1.5e-3 if gpus else 1e-4
        figures.at_most("relative difference between combinations", worst, limit)
        unless = rectangles(gpus)
        figures.at_least("best share of real tokens", max(shares), 97.0, "%", unless=unless)


class TestV1Comparison:
    suite = "v1-comparison"

    def test_both_paths(self, figures, home, sequences, gpus, tmp_path):
        fasta = write_fasta(tmp_path / "in.fa", coding_contigs(sequences))
        took = {
            name: predict(fasta, tmp_path / name, home, v2=name == "v2") for name in ("v1", "v2")
        }
        v1, v2 = (rows_of(tmp_path / name) for name in ("v1", "v2"))
        assert [row["id"] for row in v1] == [row["id"] for row in v2]
        equal = sum(a["call"] == b["call"] for a, b in zip(v1, v2, strict=True))
        figures.at_least("calls that agree", 100 * equal / len(v1), 99.0 if gpus else 100.0, "%")
        worst = max(
            abs(float(a["p_virus"]) - float(b["p_virus"]))
            for a, b in zip(v1, v2, strict=True) if a["p_virus"] and b["p_virus"]
        )  # fmt: skip
        limit = GPU_TOLERANCE if gpus else CPU_TOLERANCE
        figures.at_most("largest difference of p_virus", worst, limit)
        for name, seconds in took.items():
            figures.note(f"{name} path, whole pipeline", seconds, "s", "lower")
        stages = [json.loads((tmp_path / name / "run.json").read_text())["stages"] for name in took]
        v1_s, v2_s = (part["protein_features"]["seconds"] for part in stages)
        figures.note("protein stage, v1 over v2", v1_s / v2_s, "x", "higher")
