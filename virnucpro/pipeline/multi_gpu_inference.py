"""One packed stage on many devices: FASTA files in, one HDF5 file of vectors out.

All sequences are sorted by length and dealt out in strides, so that every shard holds the same
mix and costs about the same. The plan of shards depends on the input and on the encoder alone:
whatever the number of ranks, and whatever was done before, a shard always holds the same
sequences. Ranks commit shards as they finish them; they are joined in order as they come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from virnucpro.core.device import detect_cuda_devices, usable_cpus
from virnucpro.core.errors import DeviceError
from virnucpro.core.files import digest_of, write_json
from virnucpro.pipeline.rank_messages import Assignment, RankJob
from virnucpro.pipeline.rank_scheduler import RankScheduler
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.sequence_index import SequenceIndex, build_index
from virnucpro.pipeline.shard_merge import ShardMerge, partial_file
from virnucpro.pipeline.shard_plan import FEWEST_SHARDS, PLAN_FORMAT, Unit, plan_shards, unit_of

if TYPE_CHECKING:
    from virnucpro.models.specs import EncoderSpec

log = logging.getLogger("virnucpro.pipeline.multi_gpu")


def run_multi_gpu_inference(
    fasta_files: Sequence[Path],
    output_dir: Path,
    model_config: Mapping[str, Any],
    world_size: int,
    runtime_config: RuntimeConfig | None = None,
    on_sequences: Callable[[int], object] = lambda more: None,
) -> tuple[Path, list[int]]:
    """Embed every sequence of `fasta_files` with one process per rank.

    Args:
        fasta_files: plain FASTA; ids are unique over all files.
        output_dir: gets `embeddings.h5`, `stage.json` and `logs/worker_{rank}.log`.
        model_config: `encoder_spec` (an `EncoderSpec`), and `enable_fp16` (default True);
            `model_type` and `model_name` are names for people.
        world_size: ranks; on CUDA at most the devices to use, on the CPU any number.
        runtime_config: see `RuntimeConfig`; None means the defaults.
        on_sequences: told how many more sequences are done, those of an earlier run first.

    Returns:
        `embeddings.h5` and the ranks that held work which no living rank could finish. The file
        is complete if there are none, else it is not written and finished shards are kept. If
        some shards failed wherever they were tried while others did not, the others are in
        `partial_file`.

    Raises:
        InputError: a file is not FASTA, or an id occurs twice.
        DeviceError: more ranks than devices, or a device that cannot be used.
        ModelError: the encoder cannot be loaded.
        ShardDamagedError: finished vectors fail their checksum and `force_restart` is not set.
        OutputError: results cannot be written.
    """
    config = runtime_config or RuntimeConfig()
    stage = _Stage(output_dir, config, model_config["encoder_spec"], model_config)
    devices = choose_devices(world_size, config.devices)
    started = time.monotonic()
    index = build_index(fasta_files)
    key = stage.key(index, devices[0])
    plan = plan_shards(index, stage.unit)
    merge = ShardMerge(stage.merged, stage.shard_dir, key, index, plan)
    if config.enable_checkpointing and merge.is_finished(config):
        log.info("%s is complete: nothing to embed", stage.merged)
        return stage.merged, []
    done = merge.finished_shards(config) if config.enable_checkpointing else set()
    stage.prepare(keep_shards=config.enable_checkpointing)
    if done:
        on_sequences(sum(len(plan[k]) for k in done))
    with merge.running(stage.encoder.dim, stage.attributes(index, devices[0])) as joined:
        for shard in done:
            joined(shard)
        scheduler = RankScheduler(
            stage.jobs(index, devices),
            [
                Assignment(k, index.places.take(chosen))
                for k, chosen in enumerate(plan)
                if k not in done
            ],
            joined,
            on_sequences,
        )
        scheduler.run()
        merge.is_complete = not scheduler.given_up
    lost = scheduler.poisoned
    if 0 < len(lost) < len(plan):
        merge.write_without(lost, stage.encoder.dim, stage.attributes(index, devices[0]))
    _report(stage, scheduler, len(index), (started, merge.ended))
    return stage.merged, scheduler.failed_ranks


def choose_devices(world_size: int, devices: Sequence[str]) -> tuple[str, ...]:
    """The device of each rank.

    Args:
        world_size: ranks.
        devices: to use, in order; empty means the visible GPUs, else the CPU.

    Raises:
        DeviceError: not even one rank, or more ranks than GPUs.
    """
    chosen = tuple(devices) or tuple(f"cuda:{number}" for number in detect_cuda_devices())
    if world_size < 1:
        raise DeviceError(f"world_size must be at least 1, got {world_size}")
    if not chosen or set(chosen) == {"cpu"}:
        return ("cpu",) * world_size
    if world_size > len(chosen):
        raise DeviceError(
            f"{world_size} ranks for {len(chosen)} GPUs ({', '.join(chosen)}): "
            f"use --ranks {len(chosen)} or less"
        )
    return chosen[:world_size]


@dataclass(frozen=True)
class _Stage:
    """Names and numbers of one stage."""

    output_dir: Path
    config: RuntimeConfig
    encoder: EncoderSpec
    model_config: Mapping[str, Any]

    @property
    def merged(self) -> Path:
        return self.output_dir / "embeddings.h5"

    @property
    def log_dir(self) -> Path:
        return self.output_dir / "logs"

    @property
    def shard_dir(self) -> Path:
        folder = self.config.checkpoint_dir or self.output_dir / ".checkpoints"
        return folder / f"{self.output_dir.name}_shards"

    @property
    def unit(self) -> Unit:
        return unit_of(self.encoder.kind)

    @property
    def runtime(self) -> RuntimeConfig:
        """The config with the model's wish about float16 in it."""
        if self.model_config.get("enable_fp16", True):
            return self.config
        return replace(self.config, disable_fp16=True)

    def dtype(self, device: str) -> str:
        import torch

        from virnucpro.engines.base import choose_dtype

        runtime = self.runtime
        chosen = choose_dtype(runtime.dtype, torch.device(device), runtime.disable_fp16)
        return str(chosen).removeprefix("torch.")

    def attributes(self, index: SequenceIndex, device: str) -> dict[str, str]:
        """What decides the content of a shard."""
        about = {
            "input_digest": index.digest,
            "model_hash": digest_of(self.encoder.identity()),
            "dtype": self.dtype(device),
            "plan": digest_of(
                PLAN_FORMAT,
                FEWEST_SHARDS,
                self.unit.tokens,
                self.config.disable_packing,
                self.config.v1_attention,
            ),
        }
        return {**about, "key": digest_of(about)}

    def key(self, index: SequenceIndex, device: str) -> str:
        return self.attributes(index, device)["key"]

    def jobs(self, index: SequenceIndex, devices: Sequence[str]) -> list[RankJob]:
        return [
            RankJob(
                encoder=self.encoder,
                device=device,
                config=self.runtime,
                files=index.files,
                shard_dir=self.shard_dir,
                log_dir=self.log_dir,
                attributes=self.attributes(index, device),
                expected_tokens=self.unit.estimate(index),
                longest=self.unit.longest(index),
                readers=self.readers(device),
                cpu_threads=max(1, usable_cpus() // len(devices)),
            )
            for device in devices
        ]

    def readers(self, device: str) -> int:
        """Processes that tokenise for one rank; arithmetic on the CPU leaves no core for them."""
        if self.config.dataloader_workers is not None:
            return self.config.dataloader_workers
        return 0 if device == "cpu" else self.unit.readers

    def prepare(self, keep_shards: bool) -> None:
        for folder in (self.shard_dir, self.log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        for old in (self.merged, partial_file(self.merged)):
            old.unlink(missing_ok=True)  # nobody may take it for the result of this run
        unfinished = [] if keep_shards else [self.shard_dir.glob("shard_[0-9]*.h5")]
        for path in chain(self.shard_dir.glob(".shard_[0-9]*.h5.tmp-*"), *unfinished):
            path.unlink(missing_ok=True)


def _report(
    stage: _Stage, scheduler: RankScheduler, sequences: int, span: tuple[float, float]
) -> None:
    started, ended = span
    ready = scheduler.first_ready or ended
    summary = {
        "encoder": stage.encoder.name,
        "sequences": sequences,
        "seconds": round(ended - started, 3),
        "seconds_until_first_rank_ready": round(ready - started, 3),
        "seconds_from_then_on": round(ended - ready, 3),
        "failed_ranks": scheduler.failed_ranks,
        "given_up": {str(k): reason for k, (_, reason) in scheduler.given_up.items()},
        "ranks": [rank.stats for rank in scheduler.ranks],
    }
    write_json(stage.output_dir / "stage.json", summary)
    stats = next((rank.stats for rank in scheduler.ranks if rank.stats), None)
    if stats is not None:
        log.info("  Features: %s, stride-based sharding", _features(stats))
    log.info(
        "%s: %d sequences on %d ranks in %.1f s, %.1f s of that to load",
        stage.encoder.name,
        sequences,
        len(scheduler.ranks),
        ended - started,
        ready - started,
    )


def _features(stats: Mapping[str, Any]) -> str:
    """Numbers and kernels that really ran."""
    numbers, kernels = stats["dtype"], stats["backend"]
    varlen = "FlashAttention varlen" if kernels == "varlen" else f"{kernels} kernels"
    return f"{'FP16' if numbers == 'float16' else numbers}, {varlen}"
