"""What `benchmark_engine.py` measures with: weights, sequences, clocks, the GPU's own counters."""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from virnucpro.core.records import Tokens
from virnucpro.models.specs import DNABERT_S, ESM2_SIZES, DnabertShape, EncoderSpec, Esm2Shape

RESIDUES = np.frombuffer(b"LAGVSERTIDPQKNFYMHWC", dtype=np.uint8)
TINY_ESM2 = Esm2Shape(layers=2, dim=32, heads=2, ffn=64)
TINY_DNABERT = DnabertShape(layers=2, dim=32, heads=2, ffn=64)


class Bench:
    """Device, sizes, results; written to `out` after every figure."""

    def __init__(self, out: Path, work: Path, tiny: bool) -> None:
        self.out, self.work, self.tiny = out, work, tiny
        self.cuda = torch.cuda.is_available() and not tiny
        self.device = torch.device("cuda", 0) if self.cuda else torch.device("cpu")
        self.half = torch.float16 if self.cuda else torch.float32
        self.budget = 65_536 if self.cuda else 1_024
        self.per_file = 10_000 if self.cuda else 10
        self.repeats = 5 if self.cuda else 1
        self.rows: list[tuple[str, str]] = []
        self.esm2_shape = TINY_ESM2 if tiny else ESM2_SIZES["esm2_t36_3B_UR50D"]
        self.dnabert_shape = TINY_DNABERT if tiny else DNABERT_S
        self.results: dict[str, object] = {
            "machine": f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, "
            f"{os.cpu_count()} CPU cores"
            if self.cuda
            else platform.machine(),
            "date": time.strftime("%Y-%m-%d"),
            "about": self.about(),
        }
        self.started = time.perf_counter()
        work.mkdir(parents=True, exist_ok=True)

    def about(self) -> dict[str, object]:
        """What the figures were measured on."""
        name = torch.cuda.get_device_name(0) if self.cuda else "cpu"
        gpus = torch.cuda.device_count() if self.cuda else 0
        return {"device": name, "gpus": gpus, "torch": torch.__version__, "tiny": self.tiny}

    def put(self, section: str, name: str, value: object, text: str | None = None) -> None:
        """Keep a figure; `text` is its cell in the table."""
        part = self.results.setdefault(section, {})
        part[name] = value  # type: ignore[index]
        self.rows.append((f"{section}: {name}", text or json.dumps(value)))
        self.results["seconds"] = round(time.perf_counter() - self.started, 1)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.results, indent=1))
        print(f"[{self.results['seconds']:>7}] {section}: {name}: {text or value}", flush=True)

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give cached device memory back."""
        if self.cuda:
            torch.cuda.empty_cache()

    def seconds(
        self, work: Callable[[], object], repeats: int | None = None, warm: int = 1
    ) -> float:
        """Median seconds of `work`, device work included."""
        for _ in range(warm):
            work()
        times = []
        for _ in range(repeats or self.repeats):
            self.sync()
            start = time.perf_counter()
            work()
            self.sync()
            times.append(time.perf_counter() - start)
        return statistics.median(times)


class Busy:
    """Share of time that each GPU computed, from the driver's counters."""

    def __init__(self, gpus: int) -> None:
        self.samples: list[tuple[float, list[int]]] = []
        self._gpus, self._stop = gpus, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Busy:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._gpus)]
        except Exception as error:  # noqa: BLE001 - a counter that is missing is no result
            print(f"no nvml: {error}")
            return
        while not self._stop.wait(0.1):
            now = [pynvml.nvmlDeviceGetUtilizationRates(h).gpu for h in handles]
            self.samples.append((time.monotonic(), now))

    def mean(self, start: float, stop: float) -> float:
        """Average over GPUs between two times (s, monotonic), in percent."""
        inside = [v for at, values in self.samples if start <= at <= stop for v in values]
        return statistics.fmean(inside) if inside else float("nan")


def hf_esm2(bench: Bench, dtype: torch.dtype):
    """`EsmModel` with SDPA attention and random weights, made on the device."""
    from transformers import EsmConfig, EsmModel

    shape = bench.esm2_shape
    config = EsmConfig(
        vocab_size=33, hidden_size=shape.dim, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.ffn, pad_token_id=1,
        mask_token_id=32, position_embedding_type="rotary", token_dropout=True,
        max_position_embeddings=1026, layer_norm_eps=shape.eps, emb_layer_norm_before=False,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(bench.device):
        model = EsmModel(config, add_pooling_layer=False)
    return model.to(dtype).eval().requires_grad_(False)


def save_esm2(bench: Bench, model, half: bool) -> EncoderSpec:
    """Write its weights where ranks can read them; memory, not disk."""
    folder = (
        Path("/dev/shm" if Path("/dev/shm").is_dir() else bench.work) / f"bench-esm-{bench.tiny}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    unused = ("position_ids", "inv_freq", "contact")
    tensors = {
        name: value.to("cpu", dtype).contiguous()
        for name, value in model.state_dict().items()
        if not any(word in name for word in unused)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    shape = bench.esm2_shape
    config = {
        "model_type": "esm", "vocab_size": 33, "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn, "layer_norm_eps": shape.eps, "token_dropout": True,
        "position_embedding_type": "rotary", "emb_layer_norm_before": False, "hidden_act": "gelu",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return EncoderSpec(kind="esm2", name="random-esm2", path=folder, sha256="random", dim=shape.dim)


def save_dnabert(bench: Bench, tokenizer: Path) -> EncoderSpec:
    """Random DNABERT-S weights under their published names, beside a tokenizer."""
    from virnucpro.encoders.transformer import Dnabert

    torch.manual_seed(0)
    shape = bench.dnabert_shape
    folder = (
        Path("/dev/shm" if Path("/dev/shm").is_dir() else bench.work) / f"bench-dna-{bench.tiny}"
    )
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        "embed": "embeddings.word_embeddings", "token_types": "embeddings.token_type_embeddings",
        "embed_norm": "embeddings.LayerNorm", "qkv": "attention.self.Wqkv",
        "out": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
        "up": "mlp.gated_layers", "down": "mlp.wo", "ffn_norm": "mlp.layernorm",
    }  # fmt: skip
    tensors = {}
    for ours, value in Dnabert(shape).state_dict().items():
        *path, module, kind = ours.split(".")
        value = value if "norm" in module else torch.randn_like(value) * 0.02
        prefix = f"encoder.layer.{path[1]}." if path else ""
        tensors[f"{prefix}{names[module]}.{kind}"] = value.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "bert", "vocab_size": shape.vocab, "hidden_size": shape.dim,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "intermediate_size": shape.ffn, "type_vocab_size": shape.token_types,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return EncoderSpec(
        kind="dnabert", name="random-dna", path=folder, sha256="random", dim=shape.dim
    )


def protein_lengths(name: str, count: int) -> np.ndarray:
    """Residues: `chunks` are 166 each; `reads` are mostly whole frames of 150 nt."""
    draw = np.random.default_rng(5)
    if name == "chunks":
        return np.full(count, 166)
    whole = draw.integers(49, 51, count)
    return np.where(draw.random(count) < 0.92, whole, draw.integers(25, 50, count))


def proteins(lengths: np.ndarray) -> list[str]:
    draw = np.random.default_rng(6)
    letters = RESIDUES[draw.integers(0, 20, int(lengths.sum()))].tobytes().decode()
    bounds = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    return [letters[a:b] for a, b in itertools.pairwise(bounds)]


def write_fasta(path: Path, sequences: list[str], per_file: int) -> list[Path]:
    """Split files beside `path`, as a run has them: a file is a unit of work."""
    files = []
    for first in range(0, len(sequences), per_file):
        some = enumerate(sequences[first : first + per_file], start=first)
        files.append(path.with_name(f"{path.stem}_{len(files)}{path.suffix}"))
        files[-1].write_text("".join(f">s{i}F1\n{letters}\n" for i, letters in some))
    return files


def dna_windows(path: Path, count: int) -> list[str]:
    """Windows of 499 nt; more than the file holds are cut across the borders of its windows."""
    text = "".join(line for line in path.read_text().split("\n") if not line.startswith(">"))
    offsets = [(k * 131) % 499 for k in range(-(-count * 499 // len(text)))]
    cut = [text[i : i + 499] for o in offsets for i in range(o, len(text) - 499, 499)]
    return cut[:count]


def tokens_of(tokenizer, sequences: list[str]) -> list[Tokens]:
    return tokenizer.encode_batch(sequences)


def differences(ours: dict[int, np.ndarray], reference: dict[int, np.ndarray]) -> dict[str, float]:
    """Worst max-abs, relative norm, and cosine without the largest dimension."""
    a = np.stack([ours[k] for k in reference]).astype(np.float64)
    b = np.stack(list(reference.values())).astype(np.float64)
    largest = np.abs(b).mean(0).argmax()
    a_less, b_less = np.delete(a, largest, 1), np.delete(b, largest, 1)
    norms = np.linalg.norm(a_less, axis=1) * np.linalg.norm(b_less, axis=1)
    return {
        "max_abs": float(np.abs(a - b).max()),
        "relative_norm": float((np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)).max()),
        "min_cosine_without_largest": float(((a_less * b_less).sum(1) / norms).min()),
    }
