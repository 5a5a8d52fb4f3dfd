"""What an embedding worker does: load an encoder once, embed file after file.

The same code runs in this process (`run_job`) and in a spawned one (`worker_main`).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from virnucpro.core.errors import DeviceError, ModelError, OutputError
from virnucpro.core.processes import become_worker
from virnucpro.core.text import one_line
from virnucpro.pipeline.jobs import FeatureJob, Heartbeat, JobDone, JobFailed, WorkerSettings
from virnucpro.pipeline.worker_logs import relay_logs

if TYPE_CHECKING:
    from virnucpro.models.specs import EncoderSpec
    from virnucpro.pipeline.features import SequenceEmbedder

logger = logging.getLogger("virnucpro.pipeline.worker")

OnRows = Callable[[int], object]

_ENGINE_FACTS = ("layout", "device", "dtype", "backend", "gpu_bytes")


class LoadedEncoders:
    """Encoders kept on one device, each loaded when a job first asks for it."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.loads = self.jobs = self.cache_clears = 0
        self._encoders: dict[tuple[EncoderSpec, str], Any] = {}
        self._embedders: dict[tuple[EncoderSpec, str, str, int | None], SequenceEmbedder] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoders that are loaded."""
        return tuple(spec.name for spec, _ in self._encoders)

    def embedder(self, job: FeatureJob) -> SequenceEmbedder:
        """The encoder, tokenizer and engine that a job asks for."""
        key = (job.encoder, job.dtype, job.engine, job.token_budget)
        if key not in self._embedders:
            self._embedders[key] = self._make(job)
        return self._embedders[key]

    def clear(self) -> None:
        """Forget every encoder and give its memory back."""
        self._encoders.clear()
        self._embedders.clear()
        self._empty_cache()

    def job_finished(self) -> None:
        """Count a job; every few jobs give cached GPU memory back, against fragmentation."""
        self.jobs += 1
        interval = self.settings.cache_clear_interval
        if interval and self.jobs % interval == 0:
            self._empty_cache()

    def _make(self, job: FeatureJob) -> SequenceEmbedder:
        import torch

        from virnucpro.engines.base import EngineOptions, choose_dtype, make_engine
        from virnucpro.models.load import load_encoder, make_tokenizer
        from virnucpro.pipeline.features import SequenceEmbedder

        device = torch.device(self.settings.device)
        key = (job.encoder, job.dtype)
        if key not in self._encoders:
            dtype = choose_dtype(job.dtype, device)
            self._encoders[key] = load_encoder(job.encoder, device, dtype)
            self.loads += 1
        encoder = self._encoders[key]
        options = EngineOptions(token_budget=job.token_budget, expected_tokens=job.expected_tokens)
        engine = make_engine(job.engine, encoder, device=device, options=options)
        return SequenceEmbedder(make_tokenizer(job.encoder), engine, encoder.dim)

    def _empty_cache(self) -> None:
        import torch

        if torch.device(self.settings.device).type == "cuda":
            torch.cuda.empty_cache()
            self.cache_clears += 1


def run_job(job: FeatureJob, encoders: LoadedEncoders, on_rows: OnRows) -> JobDone | JobFailed:
    """Embed one file; a failure becomes data."""
    from virnucpro.pipeline.features import extract_dnabert_features, extract_esm_features

    rows = 0

    def count(more: int) -> None:
        nonlocal rows
        rows += more
        on_rows(more)

    extract = extract_esm_features if job.is_protein else extract_dnabert_features
    hopeless: tuple[type[Exception], ...] = (ModelError, DeviceError)  # for every file alike
    try:
        embedder = encoders.embedder(job)
        hopeless = (OutputError,)
        stats = embedder.engine.stats
        before = stats.tokens
        extract(job.input_file, job.output_file, embedder, count)
    except Exception as error:  # noqa: BLE001 - a worker's edge: the failure becomes data
        if isinstance(error, hopeless):
            return JobFailed(str(error), error)
        return JobFailed(one_line(error))
    finally:
        encoders.job_finished()
    engine = tuple((name, str(getattr(stats, name))) for name in _ENGINE_FACTS)
    tokens = stats.tokens - before
    return JobDone(rows, encoders.names, encoders.loads, encoders.cache_clears, tokens, engine)


def worker_main(connection: Connection, settings: WorkerSettings) -> None:
    """Serve jobs from `connection` until it is closed or the process is killed.

    Answers each job with heartbeats and log lines, then `JobDone` or `JobFailed`.
    """
    become_worker()
    send = _Sender(connection, settings.heartbeat_s)
    relay_logs(send, settings.log_level)
    _configure_memory(settings)
    encoders = LoadedEncoders(settings)
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        send(run_job(job, encoders, send.rows))
        send.forget_rows()


class _Sender:
    """One message at a time to the parent, also when several threads log."""

    def __init__(self, connection: Connection, heartbeat_s: float) -> None:
        self._connection, self._heartbeat_s = connection, heartbeat_s
        self._lock = threading.Lock()
        self._rows, self._last = 0, time.monotonic()

    def __call__(self, message: object) -> None:
        with self._lock:
            self._connection.send(message)

    def forget_rows(self) -> None:
        self._rows = 0

    def rows(self, more: int) -> None:
        self._rows += more
        if time.monotonic() - self._last >= self._heartbeat_s:
            self(Heartbeat(self._rows))
            self._rows, self._last = 0, time.monotonic()


def _configure_memory(settings: WorkerSettings) -> None:
    # long-lived workers fragment CUDA memory; read when torch first allocates on the device
    if settings.device != "cpu":
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if settings.threads is not None:
        import torch

        torch.set_num_threads(settings.threads)
