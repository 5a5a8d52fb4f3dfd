"""Exactness and speed of the engines on GPUs, beside rivals and ceilings of the same process.

    python benchmarks/benchmark_engine.py --out results.json \
        --tokenizer .bench/tokenizer.json --windows .bench/windows.fa      # one GPU, 6 minutes
    python benchmarks/benchmark_engine.py --out two.json --sections scaling  # two GPUs, 5 minutes
    python benchmarks/benchmark_engine.py --out tiny.json --tiny ...         # CPU, a smoke test

Weights are random at full size: values do not change speed. Every figure is the median of a few
runs after a warm-up, real tokens a second, in the sense that padding does not count. `kernels` are
our own, `eager` is the plain path.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from engine_tools import (
    Bench,
    Busy,
    differences,
    dna_windows,
    hf_esm2,
    protein_lengths,
    proteins,
    save_dnabert,
    save_esm2,
    tokens_of,
    write_fasta,
)

from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.encoders.transformer import to_fp8
from virnucpro.engines.base import EngineOptions
from virnucpro.engines.runner import BatchEngine
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.runtime_config import RuntimeConfig

ALL = "ceiling exact chunks reads rivals profile fp8 stage dnabert dnabert_stage"
READ_NT = 170  # in tokens, of which trained tokenizers make 36, what 150 nt are to the published
F16, BF16, F32 = torch.float16, torch.bfloat16, torch.float32


class Esm:
    """ESM-2 sections; weights are made once and shared."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        model = hf_esm2(bench, F32)
        self.spec = save_esm2(bench, model, half=False)
        self.rival = model
        self.tokenizer = make_tokenizer(self.spec)
        count = 2_400 if bench.cuda else 60
        self.work = {
            name: tokens_of(self.tokenizer, proteins(protein_lengths(name, n)))
            for name, n in (("chunks", count), ("reads", 3 * count))
        }
        self.best: dict[str, float] = {}

    def load(self, dtype: torch.dtype):
        """Our encoder with the shared weights."""
        return load_encoder(self.spec, self.bench.device, dtype)

    @cached_property
    def encoder(self):
        """Our encoder in the numbers whose speed counts."""
        return self.load(self.bench.half)

    @cached_property
    def references(self):
        """Proteins of many lengths, and their vectors in float32 by transformers, one a call."""
        bench = self.bench
        lengths = [*range(1, 65), *range(70, 1023, 17), 1022] if bench.cuda else [1, 2, 9, 40]
        order = np.random.default_rng(2).permutation(len(lengths))
        items = tokens_of(self.tokenizer, proteins(np.array(lengths)[order]))
        self.rival.to(F32)
        reference = {}
        with torch.inference_mode():
            for row, item in enumerate(items):
                ids = torch.from_numpy(item)[None].to(bench.device)
                hidden = self.rival(input_ids=ids).last_hidden_state[0, 1:-1]
                reference[row] = hidden.float().mean(0).cpu().numpy()
        return items, reference

    def exact(self) -> None:
        """Engines against float32 of the other implementation, lengths 1 to 1,022."""
        bench = self.bench
        for name, dtype in (("fp16", F16), ("bf16", BF16), ("fp32", F32)):
            encoder = self.load(dtype if bench.cuda else F32)
            self._differences(f"{name} packed", encoder, 16_384)
            self._differences(f"{name} padded", encoder, 16_384, "padded")
            self._differences(f"{name} packed, other batches", encoder, 4_096)
            if name == "fp16" and bench.cuda:
                encoder.forced_backend = "sdpa"
                self._differences("fp16 plain", encoder, 16_384)
            del encoder
            bench.free()

    def _differences(self, label, encoder, budget, kind="packed") -> None:
        items, reference = self.references
        options = EngineOptions(token_budget=budget)
        start = time.perf_counter()
        engine = BatchEngine(kind, encoder, device=self.bench.device, options=options)
        made = time.perf_counter() - start  # the first of a kind compiles its kernels
        value = {**differences(vectors(engine, items), reference), "made_s": made}
        self.bench.put("exact", f"{label} ({engine.stats.backend})", value)

    def speed(self, name: str) -> None:
        """Model only, batches already on the device."""
        for how in ("kernels", "eager") if self.bench.cuda else ("eager",):
            self._one(name, how)

    def _one(self, name: str, how: str) -> None:
        bench, data = self.bench, self.work[name]
        self.encoder.forced_backend = forced(bench, how)
        options = EngineOptions(token_budget=bench.budget)
        start = time.perf_counter()
        engine = BatchEngine("packed", self.encoder, device=bench.device, options=options)
        made = time.perf_counter() - start
        rate = model_only(bench, engine, data, most=2)
        text = f"{rate:,.0f} tok/s (engine made in {made:.1f} s)"
        bench.put("esm2", f"{name} {how}", {"tok_s": rate, "made_s": made}, text)
        self.best[name] = max(self.best.get(name, 0.0), rate)

    def fp8(self) -> None:
        """Three of four products in float8."""
        if not self.bench.cuda:
            return
        self.encoder.forced_backend = None
        quantised = to_fp8(self.encoder)
        for name in ("chunks", "reads"):
            options = EngineOptions(token_budget=self.bench.budget)
            engine = BatchEngine("packed", quantised, device=self.bench.device, options=options)
            rate = model_only(self.bench, engine, self.work[name], most=2)
            self.bench.put("esm2", f"{name} fp8", {"tok_s": rate}, f"{rate:,.0f} tok/s")
        self._differences("fp8 packed", quantised, 16_384)

    def rivals(self) -> None:
        """transformers: float32 in the original's batches; float16, padded and sorted."""
        bench = self.bench
        slots = 2_016 if bench.cuda else 512
        for name in ("chunks", "reads"):
            self._rival(name, slots, 4, "float32, original's batches")
        self.rival.to(bench.half)
        for name in ("chunks", "reads"):
            self._rival(name, 64_512 if bench.cuda else 1_024, 2, "sdpa float16")
        for name in ("chunks", "reads"):
            values = bench.results["rivals"]
            theirs = values[f"{name} transformers sdpa float16"]
            original = values[f"{name} transformers float32, original's batches"]
            ours = self.best.get(name)
            if ours:
                bench.put(
                    "esm2", f"{name} over transformers", ours / theirs, f"{ours / theirs:.2f} x"
                )
                bench.put(
                    "esm2", f"{name} over original", ours / original, f"{ours / original:.1f} x"
                )

    def _rival(self, name: str, slots: int, most: int, which: str) -> None:
        bench = self.bench
        data = sorted(self.work[name], key=lambda item: -len(item))
        # Rectangles as wide as their longest sequence, longest first.
        batches, at = [], 0
        while at < len(data) and len(batches) < most:
            rows = max(1, slots // len(data[at]))
            batches.append(data[at : at + rows])
            at += rows
        tensors = [stacked(batch, bench.device) for batch in batches]

        def run() -> None:
            with torch.inference_mode():
                for ids, mask in tensors:
                    hidden = self.rival(input_ids=ids, attention_mask=mask).last_hidden_state
                    hidden[:, 1:-1].float().mean(1)

        tokens = sum(len(item) for batch in batches for item in batch)
        rate = tokens / bench.seconds(run, 3)
        bench.put("rivals", f"{name} transformers {which}", rate, f"{rate:,.0f} tok/s")

    def profile(self) -> None:
        """Where a batch spends its time."""
        bench = self.bench
        self.encoder.forced_backend = None
        options = EngineOptions(token_budget=bench.budget)
        engine = BatchEngine("packed", self.encoder, device=bench.device, options=options)
        for name, data in self.work.items():
            ready = engine._prepare(planned(engine, data)[0])[2].to(bench.device)
            profiled(bench, f"esm2 {name}", partial(engine._forward, ready))

    def stage(self) -> None:
        """FASTA on disk to HDF5 on disk, one rank in its own process."""
        bench = self.bench
        count = 30_000 if bench.cuda else 40
        files = write_fasta(
            bench.work / "chunks.faa", proteins(protein_lengths("chunks", count)), bench.per_file
        )
        if bench.cuda:
            self.rival = None  # the rank needs the memory
        bench.free()
        run_stage(bench, "stage", self.spec, files, 1, self.best.get("chunks"), 168 * count)


def dnabert(bench: Bench, tokenizer: Path, windows: Path) -> float:
    """DNABERT-S, model only and through the engine; returns the best rate of 499 nt (seq/s)."""
    spec = save_dnabert(bench, tokenizer)
    encode = make_tokenizer(spec)
    whole = dna_windows(windows, 40_000 if bench.cuda else 80)
    reads = [window[i : i + READ_NT] for window in whole for i in (0, READ_NT)]
    encoder = load_encoder(spec, bench.device, bench.half)
    best = {}
    for length, sequences in ((499, whole), (READ_NT, reads)):
        seconds = bench.seconds(lambda some=sequences: tokens_of(encode, some), 1, 0)
        items = tokens_of(encode, sequences)
        mean = float(np.mean([len(item) for item in items]))
        bench.put("dnabert", f"{length} nt, tokens", mean, f"{mean:.1f}")
        rate = len(items) / seconds
        bench.put("dnabert", f"{length} nt, tokenised", rate, f"{rate:,.0f} seq/s")
        ceiling_rate = dnabert_ceiling(bench, f"{length} nt, matrix products alone", mean)
        for how in ("kernels", "eager") if bench.cuda else ("eager",):
            encoder.forced_backend = forced(bench, how)
            options = EngineOptions(token_budget=bench.budget)
            start = time.perf_counter()
            engine = BatchEngine("packed", encoder, device=bench.device, options=options)
            made = time.perf_counter() - start
            rate = model_only(bench, engine, items[:20_000], sequences=True, most=None)
            through = len(items) / bench.seconds(lambda e=engine, i=items: vectors(e, i), 2)
            text = (f"{rate:,.0f} seq/s model, {rate / ceiling_rate:.0%} of its products, "
                    f"{through:,.0f} seq/s from tokens to host")  # fmt: skip
            value = {"seq_s": rate, "of_ceiling": rate / ceiling_rate, "engine_seq_s": through,
                     "made_s": made}  # fmt: skip
            bench.put("dnabert", f"{length} nt {how}", value, text)
            best[length] = max(best.get(length, 0.0), rate)
        encoder.forced_backend = None
        options = EngineOptions(token_budget=bench.budget)
        engine = BatchEngine("packed", encoder, device=bench.device, options=options)
        ready = engine._prepare(planned(engine, items)[0])[2].to(bench.device)
        profiled(bench, f"dnabert {length} nt", partial(engine._forward, ready))
    return best[499]


def forced(bench: Bench, how: str) -> str | None:
    """The backend to force: PyTorch's, unless our own kernels are measured."""
    return "sdpa" if bench.cuda and how != "kernels" else None


def dnabert_stage(bench: Bench, tokenizer: Path, windows: Path, best: float | None) -> None:
    spec = save_dnabert(bench, tokenizer)
    count = 300_000 if bench.cuda else 60
    files = write_fasta(bench.work / "windows.fa", dna_windows(windows, count), bench.per_file)
    run_stage(bench, "dnabert stage", spec, files, 1, best, count)


def scaling(bench: Bench, count: int) -> None:
    """The same ESM-2 stage on one and on two GPUs of this machine."""
    model = hf_esm2(bench, bench.half)
    spec = save_esm2(bench, model, half=bench.cuda)
    del model
    bench.free()
    lengths = protein_lengths("reads", count)
    files = write_fasta(bench.work / "reads.faa", proteins(lengths), bench.per_file)
    tokens = int(lengths.sum()) + 2 * count
    rates = {}
    for ranks in (2, 1):
        found = run_stage(bench, f"{ranks} GPU", spec, files, ranks, None, tokens)
        rates[ranks] = found["rate"]
        value = {"seconds": found["seconds_from_then_on"], "proteins": count, "tokens": tokens}
        bench.put("scaling", f"{ranks} GPU", value, f"{found['seconds_from_then_on']:.2f} s")
    bench.put("scaling", "speed-up", rates[2] / rates[1], f"{rates[2] / rates[1]:.3f} x")


def run_stage(bench, name, spec, files, ranks, model_only_rate, units) -> dict:
    """One run of a packed stage; `units` are what its rate counts, from the first vectors on."""
    out = bench.work / f"out-{name.replace(' ', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    devices = tuple(f"cuda:{i}" for i in range(ranks)) if bench.cuda else ()
    config = RuntimeConfig(
        devices=devices, enable_checkpointing=False,
        token_budget=bench.budget if spec.kind == "esm2" else None,
    )  # fmt: skip
    done: list[tuple[float, int]] = []
    with Busy(ranks if bench.cuda else 0) as busy:
        began = time.monotonic()
        path, failed = run_multi_gpu_inference(
            files, out, {"model_type": spec.kind, "encoder_spec": spec}, ranks, config,
            lambda more: done.append((time.monotonic(), more)),
        )  # fmt: skip
        ended = time.monotonic()
    if failed or not path.exists():
        raise RuntimeError(f"ranks {failed} failed: {(out / 'stage.json').read_text()}")
    about = json.loads((out / "stage.json").read_text())
    (ready, first), *_ = [(at, rows) for at, rows in done if rows]
    units *= 1 - first / sum(rows for _, rows in done)
    seconds = ended - ready
    about["seconds_until_first_vectors"] = ready - began
    about["seconds_from_then_on"] = seconds
    about["busy_percent"] = busy.mean(ready + 1, ended - 1)
    about["rate"] = units / seconds
    about["gib_written"] = path.stat().st_size / 2**30
    share = units / seconds / model_only_rate if model_only_rate else float("nan")
    about["of_model_only"] = share
    rate, busy_percent, load = about["rate"], about["busy_percent"], ready - began
    text = (
        f"{rate:,.0f} a second after load, {share:.1%} of model only, "
        f"GPU busy {busy_percent:.1f}%, load {load:.1f} s"
    )
    bench.put("stages", name, about, text)
    shutil.rmtree(out, ignore_errors=True)
    return about


def ceiling(bench: Bench) -> None:
    """Matrix products at ESM-2's own shapes: the tokens a second they alone would allow."""
    shape = bench.esm2_shape
    d, f = shape.dim, shape.ffn
    for tokens in (16_128, bench.budget) if bench.cuda else (256,):
        for dtype in (F16, BF16) if bench.cuda else (F32,):
            rate = matmul_rate(bench, tokens, [(d, 3 * d), (d, d), (d, f), (f, d)], dtype)
            flops = 2 * (4 * d * d + 2 * d * f)
            tok_s = rate / shape.layers
            text = f"{tok_s:,.0f} tok/s, {rate * flops / 1e12:.0f} TFLOP/s"
            label = f"esm2 {dtype_name(dtype)} {tokens} tokens"
            bench.put("ceiling", label, {"tok_s": tok_s, "tflops": rate * flops / 1e12}, text)


def dnabert_ceiling(bench: Bench, name: str, tokens: float) -> float:
    """Sequences a second that DNABERT-S's matrix products alone would allow."""
    shape = bench.dnabert_shape
    d, f = shape.dim, shape.ffn
    shapes = [(d, 3 * d), (d, d), (d, 2 * f), (f, d)]
    rate = matmul_rate(bench, bench.budget, shapes, bench.half)
    seq_s = rate / shape.layers / tokens
    flops = 2 * (4 * d * d + 3 * d * f)
    text = f"{seq_s:,.0f} seq/s, {rate * flops / 1e12:.0f} TFLOP/s"
    bench.put("dnabert", name, {"seq_s": seq_s, "tflops": rate * flops / 1e12}, text)
    return seq_s


def matmul_rate(bench: Bench, tokens: int, shapes, dtype: torch.dtype) -> float:
    """Rows a second through one product of each shape."""
    seconds, loops = 0.0, 20 if bench.cuda else 1
    for inner, outer in shapes:
        a = torch.randn(tokens, inner, device=bench.device, dtype=dtype)
        b = torch.randn(outer, inner, device=bench.device, dtype=dtype)
        bias = torch.randn(outer, device=bench.device, dtype=dtype)
        seconds += bench.seconds(partial(_products, a, b, bias, loops)) / loops
    return tokens / seconds


def _products(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor, loops: int) -> None:
    for _ in range(loops):
        torch.nn.functional.linear(a, b, bias)


def model_only(bench, engine, items, sequences: bool = False, most: int | None = 6) -> float:
    """Real tokens (or sequences) a second, batches prepared and on the device."""
    plan = planned(engine, items)[:most]
    ready = [engine._prepare(some)[2].to(bench.device) for some in plan]
    seconds = bench.seconds(lambda: [engine._forward(batch) for batch in ready])
    done = [len(some) if sequences else sum(map(len, some)) for _, some in plan]
    return sum(done) / seconds


def planned(engine, items):
    """Batches as the engine makes them: rows and items of each."""
    return engine._planned(items, np.arange(len(items)))


def vectors(engine, items) -> dict[int, np.ndarray]:
    return {
        row: vector
        for rows, found in engine.embed(items)
        for row, vector in zip(rows.tolist(), found, strict=True)
    }


def stacked(batch, device) -> tuple[torch.Tensor, torch.Tensor | None]:
    longest = max(len(item) for item in batch)
    ids = torch.ones(len(batch), longest, dtype=torch.int64)
    for row, item in zip(ids, batch, strict=True):
        row[: len(item)] = torch.from_numpy(item)
    mask = None if bool((ids != 1).all()) else (ids != 1).long().to(device)
    return ids.to(device), mask


def profiled(bench: Bench, name: str, run: Callable[[], object]) -> None:
    """Share of each kernel in the device's time, the largest first."""
    if not bench.cuda:
        return
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        run()
    bench.sync()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
        bench.sync()
    rows = [r for r in found.key_averages() if r.self_device_time_total > 0]
    rows.sort(key=lambda r: -r.self_device_time_total)
    total = sum(r.self_device_time_total for r in rows)
    top = {r.key[:90]: round(r.self_device_time_total / total, 4) for r in rows[:14]}
    bench.put("profile", name, {"ms": total / 1e3, "share": top}, f"{total / 1e3:.1f} ms, {top}")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sections(bench: Bench, args: argparse.Namespace) -> None:
    wanted = args.sections.split()
    holder: dict[str, Esm] = {}

    def esm() -> Esm:
        return holder.setdefault("esm", holder.get("esm") or Esm(bench))

    best: list[float] = []
    work: dict[str, Callable[[], object]] = {
        "ceiling": lambda: ceiling(bench),
        "exact": lambda: esm().exact(),
        "chunks": lambda: esm().speed("chunks"),
        "reads": lambda: esm().speed("reads"),
        "rivals": lambda: esm().rivals(),
        "profile": lambda: esm().profile(),
        "fp8": lambda: esm().fp8(),
        "stage": lambda: esm().stage(),
        "dnabert": lambda: best.append(dnabert(bench, args.tokenizer, args.windows)),
        "dnabert_stage": lambda: dnabert_stage(
            bench, args.tokenizer, args.windows, best[0] if best else None
        ),
        "scaling": lambda: scaling(bench, args.proteins if bench.cuda else 60),
    }
    for name in wanted:
        spent = time.perf_counter() - bench.started
        if spent > args.seconds:
            bench.put("skipped", name, f"{spent:.0f} s were spent")
            continue
        try:
            work[name]()
        except Exception as error:  # noqa: BLE001 - the other sections still count
            traceback.print_exc()
            bench.put("failed", name, f"{type(error).__name__}: {error}"[:400])
        bench.free()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON, written as it goes")
    parser.add_argument("--sections", default=ALL, help=f"some of: {ALL} scaling")
    parser.add_argument("--seconds", type=float, default=420, help="start no section after this")
    parser.add_argument("--tokenizer", type=Path, default=Path(".bench/tokenizer.json"))
    parser.add_argument("--windows", type=Path, default=Path(".bench/windows.fa"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/virnucpro-bench"))
    parser.add_argument("--proteins", type=int, default=200_000, help="of the scaling section")
    parser.add_argument("--commit", default="", help="kept with the results")
    parser.add_argument("--tiny", action="store_true", help="a toy network on the CPU")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    bench = Bench(args.out, args.work, args.tiny)
    bench.results |= {
        "commit": args.commit,
        "command": " ".join(["python benchmarks/benchmark_engine.py", *sys.argv[1:]]),
    }
    sections(bench, args)
    width = max(len(name) for name, _ in bench.rows)
    print("\n" + "\n".join(f"{name:<{width}}  {text[:150]}" for name, text in bench.rows))


if __name__ == "__main__":
    main()
