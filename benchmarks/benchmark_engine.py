"""Exactness and speed of the engines on GPUs, beside rivals and ceilings of the same process.

    python benchmarks/benchmark_engine.py --out results.json \
        --tokenizer .bench/tokenizer.json --windows .bench/windows.fa      # one GPU, 8 minutes
    python benchmarks/benchmark_engine.py --out two.json --sections scaling  # two GPUs, 5 minutes
    python benchmarks/benchmark_engine.py --out tiny.json --tiny ...         # CPU, a smoke test

Weights are random at full size: values do not change speed. Every figure is the median of a few
runs after a warm-up, real tokens a second, in the sense that padding does not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
import traceback
from collections.abc import Callable
from functools import partial
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

from virnucpro.encoders.attention import pinned_kernels
from virnucpro.encoders.load import load_encoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineOptions, make_engine
from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
from virnucpro.pipeline.runtime_config import RuntimeConfig

ALL = "ceiling exact chunks reads rivals profile stage dnabert dnabert_stage"
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

    def exact(self) -> None:
        """Engines against float32 of the other implementation, one protein a call."""
        bench = self.bench
        lengths = [*range(1, 65), *range(70, 1023, 17), 1022] if bench.cuda else [1, 2, 9, 40]
        draw = np.random.default_rng(2)
        order = draw.permutation(len(lengths))
        items = tokens_of(self.tokenizer, proteins(np.array(lengths)[order]))
        self.rival.to(F32)
        reference = {}
        with torch.inference_mode():
            for item in items:
                ids = torch.from_numpy(item.ids)[None].to(bench.device)
                hidden = self.rival(input_ids=ids).last_hidden_state[0, 1:-1]
                reference[item.seq_id] = hidden.float().mean(0).cpu().numpy()
        shuffled = [items[i] for i in draw.permutation(len(items))]
        found = {}
        for name, dtype in (("fp16", F16), ("bf16", BF16), ("fp32", F32)):
            encoder = self.load(dtype if bench.cuda else F32)
            for kind in ("packed", "padded"):
                options = EngineOptions(token_budget=16_384, compile="off")
                engine = make_engine(kind, encoder, device=bench.device, options=options)
                found[name, kind] = vectors(engine, items)
                value = differences(found[name, kind], reference)
                bench.put("exact", f"{name} {kind} ({engine.stats.backend})", value)
            options = EngineOptions(token_budget=4_096, compile="off")
            engine = make_engine("packed", encoder, device=bench.device, options=options)
            other = differences(vectors(engine, shuffled), found[name, "packed"])
            bench.put("exact", f"{name} other order and batches", other)
            if name == "fp16" and bench.cuda:
                options = EngineOptions(token_budget=16_384, compile="on", longest=1024)
                engine = make_engine("packed", encoder, device=bench.device, options=options)
                value = differences(vectors(engine, items), reference)
                bench.put("exact", "fp16 packed compiled", value)
            del encoder, engine
            bench.free()

    def speed(self, name: str) -> None:
        """Model only, batches already on the device."""
        bench = self.bench
        encoder = self.load(bench.half)
        on = "on" if bench.cuda else "off"
        cases = [(bench.budget, "off"), (bench.budget, on)]
        cases += [(bench.budget // 4, on)] if name == "chunks" else []
        for budget, compiled in cases:
            self._one(name, encoder, budget, compiled)
        if name == "chunks":
            encoder = self.load(BF16 if bench.cuda else F32)
            self._one(name + " bf16", encoder, bench.budget, on)

    def _one(self, name, encoder, budget, compiled) -> None:
        bench = self.bench
        data = self.work[name.split()[0]]
        torch._dynamo.reset()  # or an earlier case's shapes would count
        options = EngineOptions(
            token_budget=budget, compile=compiled, longest=max(len(item) for item in data)
        )
        start = time.perf_counter()
        engine = make_engine("packed", encoder, device=bench.device, options=options)
        made = time.perf_counter() - start
        rate = model_only(bench, engine, data)
        label = f"{name} {budget} compile {compiled}"
        text = f"{rate:,.0f} tok/s (engine made in {made:.1f} s)"
        bench.put("esm2", label, {"tok_s": rate, "made_s": made}, text)
        self.best[name] = max(self.best.get(name, 0.0), rate)

    def whole(self) -> None:
        """The whole network compiled at once, which takes long."""
        bench = self.bench
        if not bench.cuda:
            return
        encoder = self.load(bench.half)
        options = EngineOptions(token_budget=bench.budget, compile="off")
        engine = make_engine("packed", encoder, device=bench.device, options=options)
        batch = engine.layout.fixed(engine.layout.collate(self.work["chunks"][:390]), bench.budget)
        ready = engine._forward.prepare(batch, False, True).to(bench.device)
        torch._dynamo.reset()
        whole = torch.compile(encoder.encode, dynamic=False)

        def run() -> None:
            with torch.inference_mode(), pinned_kernels():
                whole(ready)

        start = time.perf_counter()
        run()
        bench.sync()
        made = time.perf_counter() - start
        rate = 390 * 168 / bench.seconds(run)
        text = f"{rate:,.0f} tok/s (compiled in {made:.1f} s)"
        bench.put("esm2", f"chunks {bench.budget} whole network compiled",
                  {"tok_s": rate, "made_s": made}, text)  # fmt: skip

    def rivals(self) -> None:
        """transformers: float32 in the original's batches; float16, padded and sorted."""
        bench = self.bench
        slots = 2_016 if bench.cuda else 512
        for name in ("chunks", "reads"):
            self._rival(name, slots, 12, "float32, original's batches")
        self.rival.to(bench.half)
        for name in ("chunks", "reads"):
            self._rival(name, 64_512 if bench.cuda else 1_024, 6, "sdpa float16")
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
        """Where a compiled batch spends its time."""
        bench = self.bench
        encoder = self.load(bench.half)
        options = EngineOptions(
            token_budget=bench.budget, compile="on" if bench.cuda else "off", longest=168
        )
        engine = make_engine("packed", encoder, device=bench.device, options=options)
        work = engine._prepare(None, engine._planned(self.work["chunks"])[0])
        ready = work.ready.to(bench.device)
        profiled(bench, "esm2 kernels", lambda: engine._forward(ready, work.fixed))

    def stage(self) -> None:
        """FASTA on disk to HDF5 on disk, one rank in its own process."""
        bench = self.bench
        count = 30_000 if bench.cuda else 40
        fasta = write_fasta(bench.work / "chunks.faa", proteins(protein_lengths("chunks", count)))
        if bench.cuda:
            self.rival = None  # the rank needs the memory
        bench.free()
        run_stage(bench, "stage", self.spec, fasta, 1, self.best.get("chunks"), 168 * count)


def dnabert(bench: Bench, tokenizer: Path, windows: Path) -> float:
    """DNABERT-S, model only, both engines; returns the best rate (sequences/s)."""
    spec = save_dnabert(bench, tokenizer)
    encode = make_tokenizer(spec)
    sequences = dna_windows(windows, 40_000 if bench.cuda else 80)
    seconds = bench.seconds(lambda: tokens_of(encode, sequences), 2, 0)
    items = tokens_of(encode, sequences)
    mean = float(np.mean([len(item) for item in items]))
    bench.put("dnabert", "mean tokens of 499 nt", mean, f"{mean:.1f}")
    bench.put("dnabert", "tokenised", len(items) / seconds, f"{len(items) / seconds:,.0f} seq/s")
    matmuls = dnabert_ceiling(bench, mean)
    encoder = load_encoder(spec, bench.device, bench.half)
    best = 0.0
    on = "on" if bench.cuda else "off"
    budgets = (16_384, 32_768, 65_536) if bench.cuda else (1_024,)
    cases = [(b, kind, on) for b in budgets for kind in ("padded", "packed")]
    cases += [(budgets[-1], "padded", "off")]
    for budget, kind, compiled in cases:
        torch._dynamo.reset()
        options = EngineOptions(token_budget=budget, compile=compiled)
        engine = make_engine(kind, encoder, device=bench.device, options=options)
        start = time.perf_counter()
        rate = model_only(bench, engine, items[:10_000], sequences=True, most=None)
        made = time.perf_counter() - start
        through = len(items) / bench.seconds(lambda e=engine: vectors(e, items), 2)
        label = f"{kind} {budget} compile {compiled}"
        text = (f"{rate:,.0f} seq/s model, {rate / matmuls:.0%} of ceiling, "
                f"{through:,.0f} seq/s from tokens to host")  # fmt: skip
        value = {"seq_s": rate, "of_ceiling": rate / matmuls, "engine_seq_s": through, "s": made}
        bench.put("dnabert", label, value, text)
        best = max(best, rate)
    work = engine._prepare(None, engine._planned(items)[len(items) * int(mean) // budget // 2])
    ready = work.ready.to(bench.device)
    profiled(bench, "dnabert kernels", lambda: engine._forward(ready, work.fixed))
    return best


def dnabert_stage(bench: Bench, tokenizer: Path, windows: Path, best: float | None) -> None:
    spec = save_dnabert(bench, tokenizer)
    count = 300_000 if bench.cuda else 60
    fasta = write_fasta(bench.work / "windows.fa", dna_windows(windows, count))
    run_stage(bench, "dnabert stage", spec, fasta, 1, best, count)


def scaling(bench: Bench, count: int) -> None:
    """The same ESM-2 stage on one and on two GPUs of this machine."""
    model = hf_esm2(bench, bench.half)
    spec = save_esm2(bench, model, half=bench.cuda)
    del model
    bench.free()
    lengths = protein_lengths("reads", count)
    fasta = write_fasta(bench.work / "reads.faa", proteins(lengths))
    tokens = int(lengths.sum()) + 2 * count
    seconds = {}
    for ranks in (2, 1):
        rows = run_stage(bench, f"{ranks} GPU", spec, fasta, ranks, None, tokens)
        seconds[ranks] = rows["seconds_from_then_on"]
        ratio = f"{seconds[1] / seconds[2]:.3f} x" if len(seconds) == 2 else "first"
        value = {"seconds": seconds[ranks], "proteins": count, "tokens": tokens}
        bench.put("scaling", f"{ranks} GPU", value, f"{seconds[ranks]:.2f} s ({ratio})")
    bench.put("scaling", "speed-up", seconds[1] / seconds[2], f"{seconds[1] / seconds[2]:.3f} x")


def run_stage(bench, name, spec, fasta, ranks, model_only_rate, units) -> dict:
    """One run of a packed stage; `units` are what its rate counts."""
    out = bench.work / f"out-{name.replace(' ', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    devices = tuple(f"cuda:{i}" for i in range(ranks)) if bench.cuda else ()
    config = RuntimeConfig(
        devices=devices, compile="on" if bench.cuda else "off", enable_checkpointing=False,
        token_budget=bench.budget if spec.kind == "esm2" else None,
    )  # fmt: skip
    with Busy(ranks if bench.cuda else 0) as busy:
        began = time.monotonic()
        path, failed = run_multi_gpu_inference(
            [fasta], out, {"model_type": spec.kind, "encoder_spec": spec}, ranks, config
        )
    if failed or not path.exists():
        raise RuntimeError(f"ranks {failed} failed: {(out / 'stage.json').read_text()}")
    about = json.loads((out / "stage.json").read_text())
    seconds = about["seconds_from_then_on"]
    ready = began + about["seconds_until_first_rank_ready"]
    about["busy_percent"] = busy.mean(ready + 1, ready + seconds - 1)
    about["rate"] = units / seconds
    about["gib_written"] = path.stat().st_size / 2**30
    share = units / seconds / model_only_rate if model_only_rate else float("nan")
    about["of_model_only"] = share
    rate, busy_percent, load = about["rate"], about["busy_percent"], about["seconds"] - seconds
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


def dnabert_ceiling(bench: Bench, tokens: float) -> float:
    """Sequences a second that DNABERT-S's matrix products alone would allow."""
    shape = bench.dnabert_shape
    d, f = shape.dim, shape.ffn
    shapes = [(d, 3 * d), (d, d), (d, 2 * f), (f, d)]
    rate = matmul_rate(bench, bench.budget, shapes, bench.half)
    seq_s = rate / shape.layers / tokens
    flops = 2 * (4 * d * d + 3 * d * f)
    text = f"{seq_s:,.0f} seq/s, {rate * flops / 1e12:.0f} TFLOP/s"
    bench.put("dnabert", "matmul ceiling", {"seq_s": seq_s, "tflops": rate * flops / 1e12}, text)
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
    plan = engine._planned(items)[:most]
    work = [engine._prepare(None, some) for some in plan]
    ready = [(w.ready.to(bench.device), w.fixed) for w in work]
    seconds = bench.seconds(lambda: [engine._forward(batch, fixed) for batch, fixed in ready])
    done = [len(some) if sequences else sum(len(item) for item in some) for some in plan]
    return sum(done) / seconds


def vectors(engine, items) -> dict[str, np.ndarray]:
    return {
        seq_id: row
        for batch in engine.embed(items)
        for seq_id, row in zip(batch.seq_ids, batch.vectors, strict=True)
    }


def stacked(batch, device) -> tuple[torch.Tensor, torch.Tensor | None]:
    longest = max(len(item) for item in batch)
    ids = torch.ones(len(batch), longest, dtype=torch.int64)
    for row, item in zip(ids, batch, strict=True):
        row[: len(item)] = torch.from_numpy(item.ids)
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
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
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
        "whole": lambda: esm().whole(),
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
    parser.add_argument("--sections", default=ALL, help=f"some of: {ALL} whole scaling")
    parser.add_argument("--seconds", type=float, default=420, help="start no section after this")
    parser.add_argument("--tokenizer", type=Path, default=Path(".bench/tokenizer.json"))
    parser.add_argument("--windows", type=Path, default=Path(".bench/windows.fa"))
    parser.add_argument("--work", type=Path, default=Path("/tmp/virnucpro-bench"))
    parser.add_argument("--proteins", type=int, default=200_000, help="of the scaling section")
    parser.add_argument("--tiny", action="store_true", help="a toy network on the CPU")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    bench = Bench(args.out, args.work, args.tiny)
    sections(bench, args)
    width = max(len(name) for name, _ in bench.rows)
    print("\n" + "\n".join(f"{name:<{width}}  {text[:150]}" for name, text in bench.rows))


if __name__ == "__main__":
    main()
