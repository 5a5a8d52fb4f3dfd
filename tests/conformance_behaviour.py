"""What is computed, run or measured for rows of the conformance list: each check asserts."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from click.testing import CliRunner
from conformance_checks import GUIDE, MERGE_MODULE, ROOT, text_of
from conformance_runs import RECORDS
from staged_files import tiny_dna_encoder, tiny_protein_encoder
from stand_ins import POISON_UNIT
from tokenizers import Tokenizer

from tests.integration.test_docs import all_options
from tests.unit.encoders.test_attention import varlen_by_hand
from virnucpro.cli.main import cli
from virnucpro.core.checkpoint import check_file, read_entry
from virnucpro.core.config import parse_flag, unknown_variables
from virnucpro.core.errors import WorkersFailedError
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import BpeTokenizer, make_tokenizer
from virnucpro.engines.plans import collate_packed, pack
from virnucpro.models.specs import DNABERT_S
from virnucpro.pipeline.multi_gpu_inference import _options, features
from virnucpro.pipeline.parallel_merge import get_optimal_settings
from virnucpro.pipeline.persistent_pool import PersistentWorkerPool
from virnucpro.pipeline.runtime_config import RuntimeConfig

CPU = torch.device("cpu")
FAILED = "v2.0 ESM-2 inference failed on 1/1 workers: ranks [0]. Check logs: "


def merge_settings(logs):
    pairs = [(None, None, None)] * 100
    assert get_optimal_settings(pairs, 4) == (4, 1, max(1, 100 // 16))
    assert get_optimal_settings(pairs[:10], 4)[2] == 1


def no_torch_at_start(logs):
    """Nor in a worker that merges."""
    modules = f"{MERGE_MODULE}, virnucpro.pipeline.features"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def lazy_pool(logs):
    pool = PersistentWorkerPool(1, "esm2")
    assert pool.pool is None
    assert callable(pool.create_pool)
    pool.close()


def both_stages_on_one_pool(logs):
    """One worker, started once, embeds DNA and proteins; without the flag nobody starts one."""
    assert logs("persistent").count("Started 1 workers") == 1
    assert set(engines(logs, "persistent")) == {"dna", "protein"}
    assert "Started" not in logs("fallback")
    for one, other in zip(logs.rows("persistent"), logs.rows("fallback"), strict=True):
        assert one == other


def pools_end(logs):
    """At the end of a run, and at an error in the midst of it."""
    for name in ("persistent", "persistent, disk full"):
        assert "Started 1 workers" in logs(name)
        assert not [child for child in logs.left[name] if child.startswith("virnucpro-")]
    assert "error: no space left" in logs("persistent, disk full")


def progress_of_pools(logs):
    told = re.findall(r"Embedding (\w+): (\d+)/(\d+) ORFs, .*ETA", logs("persistent"))
    for title in ("DNA", "proteins"):
        done = [(int(part), int(whole)) for name, part, whole in told if name == title]
        assert done
        assert done[-1][0] == done[-1][1] > 0


def engines(logs, name):
    """Layout of each encoder, by its slot."""
    slots = {"dnabert": "dna", "esm2": "protein", "dna": "dna", "protein": "protein"}
    found = logs.record(name)["engines"]
    return {slots[slot]: facts.split()[0] for slot, facts in found.items()}


def routes(logs):
    """The packed engine is called once, for the proteins; DNA, and all of v1, goes file by file."""
    assert engines(logs, "parallel") == {"dna": "padded", "protein": "packed"}
    assert engines(logs, "fallback") == {"dna": "padded", "protein": "padded"}
    assert logs.packed["fallback"] == []
    [call] = logs.packed["parallel"]
    assert call["world_size"] == 1
    assert call["output_dir"] == logs.out("parallel") / "esm_v2"
    assert len(call["fasta_files"]) == RECORDS
    model, config = call["model_config"], call["runtime_config"]
    assert (model["model_type"], model["model_name"]) == ("esm2", "esm2_t36_3B_UR50D")
    assert model["enable_fp16"] is True
    assert config.enable_checkpointing is False
    assert config.checkpoint_dir == logs.out("parallel") / ".checkpoints"


def same_calls(logs):
    """Every way calls each record alike; p_virus may differ in its last digits."""
    for name in ("merge-threads", "parallel", "fallback", "persistent"):
        for one, other in zip(logs.rows("default"), logs.rows(name), strict=True):
            assert (one["id"], one["status"], one["call"]) == (
                other["id"], other["status"], other["call"],
            )  # fmt: skip
            assert abs(float(one["p_virus"]) - float(other["p_virus"])) < 1e-4


def architecture_of_v1(logs):
    """Every flag that implies the staged path says so; one stream says what it is."""
    line = "Architecture: v1.0 (single-GPU or non-parallel mode)"
    assert line in logs("merge-threads")
    assert line in logs("persistent")
    assert "Architecture: one stream" in logs("default")
    assert "Architecture: v1.0" not in logs("default") + logs("parallel")


def features_line(logs):
    on_cuda = features({"dtype": "float16", "backend": "varlen"})
    assert f"  Features: {on_cuda}, stride-based sharding" == (
        "  Features: FP16, FlashAttention varlen, stride-based sharding"
    )
    assert "  Features: float32, sdpa kernels, stride-based sharding" in logs("parallel")


def failure_text(logs):
    error = WorkersFailedError([1, 3], 4, Path("out/esm_v2/logs"))
    assert isinstance(error, RuntimeError)
    assert str(error) == (
        "v2.0 ESM-2 inference failed on 2/4 workers: ranks [1, 3]. "
        "Check logs: out/esm_v2/logs/worker_*.log"
    )


def nothing_finished(logs):
    """Where a shard or a rank is given up, the stage fails with 002-35, and with it all."""
    for name in ("a shard kills its ranks", "every rank dies", "every shard fails"):
        printed = " ".join(logs(name).split())
        out = logs.out(name)
        assert f"error: {FAILED}{out}/esm_v2/logs/worker_*.log" in printed
        assert (out / "esm_v2" / "logs" / "worker_0.log").exists() == (name != "every rank dies")
        assert not (out / "calls.tsv").exists()
        assert "protein_features" not in logs.record(name)["stages"]


def nothing_failed(logs):
    assert f"v2.0 ESM-2 complete: {RECORDS} feature files created" in logs("parallel")
    assert not (logs.out("parallel") / "failed_files.txt").exists()
    assert logs.record("parallel")["status"] == "done"
    assert {row["status"] for row in logs.rows("parallel")} == {"called"}


def shards_without_resume(logs):
    """A run without --resume has committed each finished shard, sealed and under its key."""
    name = "a shard kills its ranks"
    logs(name)
    out, committed = logs.out(name), {}
    for path in (out / ".checkpoints" / "ledger").glob("*.entry"):
        committed |= read_entry(path).outputs
    shards = {path: about for path, about in committed.items() if path.endswith(".h5")}
    numbers = [number for number in range(RECORDS) if number != POISON_UNIT]
    folder = ".checkpoints/esm_v2_shards"
    assert sorted(shards) == [f"{folder}/shard_{number:05d}.h5" for number in numbers]
    for path, (size, sha256) in shards.items():
        check_file(out / path, size, sha256)


ORDER = """
import logging, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch is imported")
            raise ImportError("no torch in this test")

def made(*args, **kwargs):
    record = known(*args, **kwargs)
    print("logged", record.getMessage())
    return record

known = logging.getLogRecordFactory()
logging.setLogRecordFactory(made)
sys.meta_path.insert(0, Finder())
from virnucpro.cli.main import main
main()
"""


def logging_before_torch(logs):
    """The lines come after the settings were read, and torch after the lines."""

    def events(**variables):
        words = ["predict", str(logs.fasta), "--parallel", "-o", str(logs.root / "order")]
        done = subprocess.run(
            [sys.executable, "-c", ORDER, *words], env=os.environ | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = done.stdout.splitlines()
        return [line for line in lines if "Architecture: " in line or line.startswith("torch")]

    first, *_, last = events()
    assert first == "logged Architecture: v2.0 hybrid"
    assert last == "torch is imported"
    assert events(VIRNUCPRO_DISABLE_PACKING="perhaps") == []
    assert "Architecture: v2.0 hybrid" in logs("parallel")


def notes(text):
    """The suites that compare versions print a text before they start; no other suite does."""

    def check(logs):
        for suite, is_told in (("v1-comparison", True), ("all", True), ("memory", False)):
            words = ["benchmark", "--suite", suite, "-o", str(logs.root / "reports")]
            with patch("virnucpro.cli.benchmark._run", return_value=5) as started:
                printed = CliRunner().invoke(cli, words).output
            started.assert_called_once()
            assert (text in printed.splitlines()) == is_told

    return check


def table_of_stages(logs):
    section = text_of(GUIDE).split("## Hybrid Architecture (v2.0)")[1].split("###")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == [
        "Stage", "v1.0", "v2.0 (current)", "Future (v2.1)",
    ]  # fmt: skip
    words = [
        "Chunking", "Translation", "Splitting", "DNABERT-S", "ESM-2", "Merging", "Prediction",
        "Consensus",
    ]  # fmt: skip
    assert len(rows[2:]) == len(words)
    assert all(word in row for word, row in zip(words, rows[2:], strict=True))


def enough_lines(logs):
    assert len([line for line in text_of(GUIDE).splitlines() if line.strip()]) >= 100


def threads_of_readers(logs):
    for given, feeding, tokenizing in ((None, 1, 1), (0, 0, 1), (1, 1, 1), (5, 1, 5)):
        options = _options(RuntimeConfig(dataloader_workers=given), True, [])
        assert (options.feeding_threads, options.tokenizer_threads) == (feeding, tokenizing)


def first_fit_decreasing(logs):
    """Batches that next-fit would not find, and the share that the guide promises."""
    assert [batch.tolist() for batch in pack([4, 6, 3, 7], 10)] == [[3, 2], [1, 0]]
    for mean in (49, 166):  # residues of reads of 150 nt, and of chunks of 500 nt
        draw = np.random.default_rng(1).normal(mean, mean / 10, 20_000)
        lengths = np.clip(draw, 5, 168).astype(int) + 2
        assert lengths.sum() >= 0.97 * 16_384 * len(pack(lengths, 16_384))


def no_mixing(logs):
    """The vector of a protein is the same whatever lies beside it in a row of packed tokens."""
    spec = tiny_protein_encoder(logs.root / "mixing")
    encoder, tokenizer = load_encoder(spec, CPU, torch.float32), make_tokenizer(spec)
    encoder.forced_backend = "varlen"
    items = [tokenizer.encode(text) for text in ("MKVLA", "GGHWY", "CCCCCCC")]
    with patch("virnucpro.encoders.layouts.varlen_attn", varlen_by_hand), torch.inference_mode():
        alone = torch.cat([encoder(collate_packed([item])) for item in items])
        for order in ([0, 1, 2], [2, 1, 0], [1, 2]):
            batch = collate_packed([items[i] for i in order])
            assert encoder.lay_out(batch).backend == "varlen"
            assert torch.allclose(encoder(batch), alone[order], atol=3e-6)


def true_options(logs):
    """Options and variables on the page are those of the product, and their words are as said."""
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", text_of(GUIDE))) <= all_options()
    named = set(re.findall(r"VIRNUCPRO_\w+", text_of(GUIDE)))
    assert named
    assert unknown_variables(dict.fromkeys(named, "")) == []
    for word, meaning in (("yes", True), ("on", True), ("no", False), ("off", False)):
        assert parse_flag(word, "x") is meaning


def true_tokens(logs):
    """C9: byte pairs from a vocabulary of 4,096 and not k-mers; nothing is cut off."""
    assert DNABERT_S.vocab == 4_096
    assert "vocabulary of 4,096, not k-mers" in text_of(GUIDE)
    folder = logs.root / "tokens"
    tiny_dna_encoder(folder)
    cutting = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cutting.enable_truncation(512)
    cutting.save(str(folder / "tokenizer.json"))
    assert len(BpeTokenizer(folder / "tokenizer.json").encode("ACGT" * 1_000)) == 4_002


def result_file(name):
    return json.loads(text_of(f"benchmarks/results/{name}_h100.json"))


def true_figures(logs):
    """Each figure of the table is that of the result file, rounded."""
    engine, dna = result_file("engine"), result_file("dnabert")["dnabert"]
    esm2 = engine["esm2"]
    packed, original = (
        esm2["chunks 65536 compile on"]["tok_s"],
        engine["rivals"]["chunks transformers float32, original's batches"],
    )
    packed_dna, padded_dna = (
        dna[f"{name} 65536 compile on"]["seq_s"] for name in ("packed", "padded")
    )
    for text in (
        f"{packed / original:.1f} x ({packed:,.0f} against {original:,.0f} tok/s)",
        f"{esm2['chunks over transformers']:.2f} x (168 tokens)",
        f"{esm2['reads over transformers']:.2f} x (about 51 tokens)",
        f"{packed_dna / padded_dna:.2f} x ({packed_dna:,.0f} against {padded_dna:,.0f} seq",
        f"two GPUs against one | {result_file('scaling')['scaling']['speed-up']:.2f} x |",
    ):
        assert text in text_of(GUIDE), text


def thresholds_reached(logs):
    """4 to 5 times the throughput of 1.0, and 1.9 times on two GPUs, as last measured."""
    assert result_file("engine")["esm2"]["chunks over original"] >= 5
    assert result_file("scaling")["scaling"]["speed-up"] >= 1.9


@contextmanager
def on_path(folder):
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def threshold_of_two_gpus(logs):
    """Where two GPUs are, the suite holds them to 1.9 x; the GPUs and their seconds are made up."""
    with on_path(ROOT / "tests" / "benchmarks"):
        bench_report, suites = map(importlib.import_module, ("bench_report", "test_v2"))

    def verdict(one, two, gpus):
        def seconds(pool, job, units):
            return (one, two)[len(pool.settings) - 1], 10_000

        class Pool:
            def __init__(self, settings):
                self.settings = settings

            def close(self):
                pass

        folder = logs.root / f"two-{two}-{gpus}"
        figures = bench_report.Figures("v2-scaling", [])
        with (
            patch.object(suites, "seconds_of_units", seconds),
            patch.object(suites, "Workers", Pool),
            patch.object(suites, "choose_devices", lambda ranks, _: ("cpu",) * ranks),
            patch.object(suites, "proteins", lambda count: ["MKV"] * count),
        ):
            test = suites.TestV2Scaling().test_two_ranks
            test(figures, logs.home, 10_000, gpus, False, folder)
        [row] = [row for row in figures.rows if row["requirement"] == "at least 1.9 x"]
        return row["verdict"]

    assert verdict(10.0, 5.2, 2) == "passed"
    assert verdict(10.0, 5.4, 2) == "missed"
    assert verdict(10.0, 5.4, 0) == "not applicable"


def logged_as_said(logs):
    """The blocks of log lines on the page are lines of real runs."""
    printed = logs("parallel") + logs("fallback")
    blocks = re.findall(r"```text\n(Architecture:.*?)```", text_of(GUIDE), re.DOTALL)
    assert len(blocks) == 2
    for line in "".join(blocks).splitlines():
        assert f" {line}\n" in printed, line
