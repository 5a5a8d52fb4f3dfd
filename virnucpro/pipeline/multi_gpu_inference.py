"""One packed stage on many devices: FASTA files in, one HDF5 file of vectors out.

The vectors of each file are a shard. Shards are joined in the order of the files: the result is the
same whatever the number of ranks, or was done before.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from virnucpro.core.checkpoint import Ledger
from virnucpro.core.device import detect_cuda_devices
from virnucpro.core.errors import DeviceError
from virnucpro.core.files import digest_of, sha256_file, write_json
from virnucpro.engines.base import EngineOptions
from virnucpro.pipeline.features import EmbedJob, SplitFile, read_vectors, write_vectors
from virnucpro.pipeline.persistent_pool import BatchQueueManager, PersistentWorkerPool
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.worker_loop import Failed

log = logging.getLogger("virnucpro.pipeline.multi_gpu")


def run_multi_gpu_inference(
    fasta_files: Sequence[Path],
    output_dir: Path,
    model_config: Mapping[str, Any],
    world_size: int,
    runtime_config: RuntimeConfig | None = None,
    on_sequences: Callable[[int], object] = lambda more: None,
) -> tuple[Path, list[int]]:
    """Embed every sequence of `fasta_files`, whose ids are unique in each, one process per rank.

    `output_dir` gets `embeddings.h5`, `stage.json` and `logs/worker_{rank}.log`. `model_config` has
    `encoder_spec` and `enable_fp16`. `on_sequences` is told of sequences done, earlier ones first.

    Returns:
        `embeddings.h5` and the ranks that held work which no rank could finish. The file is
        complete if there are none, else it is not written and finished shards are kept.
    """
    config, started = runtime_config or RuntimeConfig(), time.monotonic()
    compute, encoder = config.compute, model_config["encoder_spec"]
    devices, output_dir = choose_devices(world_size, config.devices), output_dir.absolute()
    folder = (config.checkpoint_dir or output_dir / ".checkpoints").absolute()
    shard_dir, log_dir = folder / f"{output_dir.name}_shards", output_dir / "logs"
    shard_dir.mkdir(parents=True, exist_ok=True)
    log_dir.mkdir(parents=True, exist_ok=True)
    merged, root = output_dir / "embeddings.h5", os.path.commonpath([folder.parent, output_dir])
    reuse, repair = config.enable_checkpointing, config.force_restart
    ledger = Ledger(Path(root), folder / "ledger", reuse, repair)
    is_half = compute.dtype in ("auto", "float16")
    options = EngineOptions(
        engine="packed" if compute.packing else "padded",
        dtype="float32" if is_half and not model_config.get("enable_fp16", True) else compute.dtype,
        token_budget=config.token_budget,
        feeding_threads=0 if compute.loader_workers == 0 else 1,
        tokenizer_threads=max(1, compute.loader_workers or 1),
        pin_memory=compute.pin_memory,
        plain_attention=compute.v1_attention,
    )
    kind, how = devices[0].split(":")[0], (options.engine, options.dtype, options.plain_attention)
    units: dict[SplitFile, tuple[str, str]] = {}  # with name and key in the ledger
    for number, path in enumerate(fasta_files):
        shard = shard_dir / f"shard_{number:05d}.h5"
        key = digest_of(encoder.identity(), *how, kind, sha256_file(path))
        units[SplitFile(path, shard, "shard")] = f"{output_dir.name} {shard.name}", key
    whole = f"{output_dir.name} embeddings", digest_of([key for _, key in units.values()])
    if (entry := ledger.read(*whole)) is not None:
        log.info("%s is complete: nothing to embed", merged)
        on_sequences(int(entry.facts["sequences"]))
        return merged, []
    rows: dict[SplitFile, int] = {}
    for file, unit in units.items():
        if (entry := ledger.read(*unit)) is not None:
            rows[file] = int(entry.facts["sequences"])
    todo = [file for file in units if file not in rows]
    log.info("%d of %d shards are finished", len(rows), len(units))
    on_sequences(sum(rows.values()))
    ledger.discard(whole[0], *(units[file][0] for file in todo))
    merged.unlink(missing_ok=True)  # nobody may take it for the result of this run

    gpus = tuple(int(name.removeprefix("cuda:")) for name in devices if name != "cpu")
    own = replace(compute, device="cpu", gpus=gpus, cache_clear_interval=0)
    workers = PersistentWorkerPool(world_size, "rank", own, log_dir)
    queue, given_up = BatchQueueManager(use_persistent_pool=workers), dict[Path, Failed]()
    with closing(workers):
        for file, outcome in queue.process(EmbedJob(encoder, options), todo, on_sequences):
            if isinstance(outcome, Failed):
                given_up[file.input_file] = outcome
                continue
            rows[file] = outcome.result[0]
            ledger.commit(*units[file], outputs=[file.output_file], facts={"sequences": rows[file]})
        stats = [worker.stats.get(encoder.kind, {}) for worker in workers.pool or []]
    failed_ranks = sorted({one.worker for one in given_up.values()})
    count = sum(rows.values())
    if not given_up:
        write_vectors(
            merged, (read_vectors(file.output_file) for file in units), (count, encoder.dim),
            key=whole[1], model_hash=digest_of(encoder.identity()), dtype=options.dtype,
        )  # fmt: skip
        ledger.commit(*whole, outputs=[merged], facts={"sequences": count})
        ledger.discard(*(name for name, _ in units.values()))
        for file in units:
            file.output_file.unlink()
    seconds = time.monotonic() - started
    write_json(output_dir / "stage.json", {
        "encoder": encoder.name, "sequences": count, "seconds": round(seconds, 3),
        "failed_ranks": failed_ranks, "ranks": stats,
        "given_up": {str(path): one.reason for path, one in given_up.items()},
    })  # fmt: skip
    if known := next(filter(None, stats), None):
        said = {"float16": "FP16", "triton kernels": "FlashAttention varlen"}
        numbers, kernels = known["dtype"], f"{known['backend']} kernels"
        words = said.get(numbers, numbers), said.get(kernels, kernels)
        log.info("  Features: %s, %s, stride-based sharding", *words)
    log.info("%s: %d sequences on %d ranks in %.1f s", encoder.name, count, len(devices), seconds)
    return merged, failed_ranks


def choose_devices(world_size: int, devices: Sequence[str]) -> tuple[str, ...]:
    """The device of each rank; no `devices` means the visible GPUs, else the CPU."""
    chosen = tuple(devices) or tuple(f"cuda:{number}" for number in detect_cuda_devices())
    if world_size < 1:
        raise DeviceError(f"world_size must be at least 1, got {world_size}")
    if not chosen or set(chosen) == {"cpu"}:
        return ("cpu",) * world_size
    if world_size > (most := len(chosen)):
        problem = f"{world_size} ranks for {most} GPUs ({', '.join(chosen)})"
        raise DeviceError(f"{problem}: use --ranks {most} or less")
    return chosen[:world_size]
