"""A model on one device: both encoders and the classifier; distinct ORFs in, scores out.

Vectors never leave this object on the way to a score, and an ORF is found again by its row.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from virnucpro.core.device import usable_cpus
from virnucpro.encoders.small_cpu import SmallEncoder
from virnucpro.encoders.tokenizers import make_tokenizer
from virnucpro.engines.base import EngineOptions, LightEngine, choose_dtype, spread
from virnucpro.models.specs import EncoderSpec, ModelSpec
from virnucpro.scores import kinds

if TYPE_CHECKING:
    from virnucpro.core.records import Tokens
    from virnucpro.engines.runner import BatchEngine
    from virnucpro.scores.classifier import Classifier

    Engine = LightEngine | BatchEngine

COLUMNS = 3 + kinds.COLUMNS
MOST_TOKENIZERS = 12  # threads; from there on they wait for the interpreter
_OF_PROTEIN = 0.25  # of the work of the bundled model, which reads six frames of DNA
_SLICE = 256  # sequences per call of a tokenizer
_SWITCH_S = 2e-4  # other threads must not keep the one that feeds a GPU waiting


class LoadedModels:
    """Encoders and classifiers that are kept on one device, each loaded when first asked for.

    `threads` are CPU threads of arithmetic, None leaves torch's choice; `cache_clear_interval`
    units lie between two clearings of the GPU cache, 0 never clears it.
    """

    def __init__(
        self, device: str, threads: int | None = None, cache_clear_interval: int = 0
    ) -> None:
        self.device, self.threads = device, threads
        self._interval, self._units = cache_clear_interval, 0
        self._encoders: dict[Any, Any] = {}
        self._engines: dict[tuple[EncoderSpec, EngineOptions], Engine] = {}
        self._classifiers: dict[str, Classifier] = {}

    @property
    def loads(self) -> int:
        """Encoders loaded so far."""
        return len(self._encoders)

    @property
    def is_single_threaded(self) -> bool:
        """Whether one CPU thread is all there may be, and nothing else waits for it."""
        return self.threads == 1 and self.device == "cpu"

    def engine(self, spec: EncoderSpec, options: EngineOptions) -> Engine:
        """An encoder in its engine; a ModelError or a DeviceError where one cannot be used."""
        if (spec, options) in self._engines:
            return self._engines[spec, options]
        encoder = self.encoder(spec, options)
        if isinstance(encoder, SmallEncoder):
            engine: Engine = LightEngine(encoder, self.threads or usable_cpus())
            return self._engines.setdefault((spec, options), engine)
        import torch

        from virnucpro.encoders.load import load_encoder
        from virnucpro.engines.runner import BatchEngine

        device = torch.device(self.device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            sys.setswitchinterval(_SWITCH_S)
        if options.dtype == "fp8" and spec.kind == "esm2":
            from virnucpro.encoders.transformer import to_fp8

            encoder = to_fp8(encoder)
        settings = replace(options, feeding_threads=0) if self.is_single_threaded else options
        kind = options.engine or ("packed" if device.type == "cuda" else "padded")
        exact = partial(load_encoder, spec, device, torch.float32)
        engine = BatchEngine(kind, encoder, device=device, options=settings, float32_encoder=exact)
        return self._engines.setdefault((spec, options), engine)

    def encoder(self, spec: EncoderSpec, options: EngineOptions) -> Any:
        """As `engine`, the encoder alone, for several threads; a small one on a CPU is numpy."""
        if spec.is_small and self.device == "cpu" and options.dtype in ("auto", "float32"):
            return self._encoders.get(spec) or self._encoders.setdefault(spec, SmallEncoder(spec))
        import torch

        from virnucpro.encoders.load import load_encoder

        device = torch.device(self.device)
        if self.threads is not None:
            torch.set_num_threads(min(self.threads, torch.get_num_threads()))
        key = spec, choose_dtype(options.dtype, device), options.plain_attention
        if key not in self._encoders:
            self._encoders[key] = encoder = load_encoder(spec, device, key[1])
            if options.plain_attention:
                encoder.forced_backend = "sdpa"
        return self._encoders[key]

    def classifier(self, model: ModelSpec) -> Classifier:
        """The classifier of a model; errors as for `engine`."""
        from virnucpro.scores.classifier import Classifier

        if model.digest not in self._classifiers:
            self._classifiers[model.digest] = Classifier(model, self.device)
        return self._classifiers[model.digest]

    def unit_finished(self) -> None:
        """Count; every few units give cached GPU memory back, against fragmentation."""
        self._units += 1
        if self.device != "cpu" and self._interval and self._units % self._interval == 0:
            import torch

            torch.cuda.empty_cache()


class Embedder:
    """One encoder in its engine on one device, with its tokenizer; loaded when first used."""

    def __init__(self, spec: EncoderSpec, models: LoadedModels, options: EngineOptions) -> None:
        self.spec, self.models, self.options = spec, models, options
        self._tokenizer = make_tokenizer(spec)

    def load(self) -> Engine:
        """The engine with its encoder on the device; errors as for `LoadedModels.engine`."""
        return self.models.engine(self.spec, self.options)

    def tokens(self, sequences: Sequence[bytes]) -> Sequence[Tokens]:
        """Token ids of each sequence, under the number of its row; needs no device."""
        texts = [sequence.decode("ascii") for sequence in sequences]
        parts = (texts[at : at + _SLICE] for at in range(0, len(texts), _SLICE))
        threads = self.options.tokenizer_threads
        if threads is None:
            on_cpu = self.models.device == "cpu"
            threads = 1 if on_cpu else min(MOST_TOKENIZERS, self.models.threads or usable_cpus())
        return [*chain.from_iterable(spread(self._tokenizer.encode_batch, parts, threads))]

    def embed(
        self, items: Sequence[Tokens], out: NDArray[np.float32]
    ) -> Generator[int, None, None]:
        """Fill `out`, shape (n, d), with the vector of each row; yields rows as they are done."""
        missing = np.ones(len(items), dtype=bool)
        for rows, vectors in self.load().embed(items) if items else ():
            out[rows] = vectors
            missing[rows] = False
            yield len(rows)
        if missing.any():
            raise RuntimeError(f"{missing.sum()} rows got no vector, first {missing.argmax()}")


Prepared = tuple["Sequence[Tokens]", "Sequence[Tokens]"]


class Scorer:
    """Scores of distinct ORFs by one model, on the device of `models`."""

    def __init__(
        self, model: ModelSpec, models: LoadedModels, dna: EngineOptions | None = None,
        protein: EngineOptions | None = None, classifier_batch: int = 256,
    ) -> None:  # fmt: skip
        self.model, self._models, self._batch = model, models, classifier_batch
        self._dna = Embedder(model.dna, models, dna or EngineOptions())
        self._protein = Embedder(model.protein, models, protein or EngineOptions())

    def load(self) -> None:
        """Load what is not loaded yet; errors as for `LoadedModels.engine`."""
        self._models.classifier(self.model)
        slots = (self._dna, self._protein)
        if self._models.device != "cpu":
            with ThreadPoolExecutor(len(slots)) as loaders:  # what takes long
                list(loaders.map(lambda slot: self._models.encoder(slot.spec, slot.options), slots))
        for slot in slots:  # one after the other: each sees how much memory is free
            slot.load()

    def prepare(self, orfs: tuple[Sequence[bytes], Sequence[bytes]]) -> Prepared:
        """DNA and proteins of n ORFs as tokens; may run in another thread than `run`."""
        dna, protein = orfs
        return self._dna.tokens(dna), self._protein.tokens(protein)

    def vectors(
        self, prepared: Prepared, merged: NDArray[np.float32]
    ) -> Generator[int, None, None]:
        """Fill `merged`, shape (n, d), DNA columns first; yields ORFs as they are done."""
        dna, protein = prepared
        split = self.model.dna.dim
        # Proteins first: a GPU needs the host least for them, while another thread makes tokens of
        # the next unit. Of the work they are nearly all, but for the bundled model.
        share, done, told = _OF_PROTEIN if self.model.is_small else 1.0, 0.0, 0
        proteins, chunks = (protein, merged[:, split:]), (dna, merged[:, :split])
        for slot, part, of_work in (
            (self._protein, proteins, share),
            (self._dna, chunks, 1 - share),
        ):
            for rows in slot.embed(*part):
                done += rows * of_work
                yield round(done) - told
                told = round(done)

    def run(self, prepared: Prepared) -> Generator[int, None, NDArray[np.float32]]:
        """Scores of n ORFs as `classify` gives them; yields ORFs as they are done."""
        merged = np.empty((len(prepared[0]), self.model.dim), dtype=np.float32)
        yield from self.vectors(prepared, merged)
        return self.classify(merged)

    def classify(self, merged: NDArray[np.float32]) -> NDArray[np.float32]:
        """P(other), P(virus), P(null), columns of `Kinds`: (n, `COLUMNS`), NaN for what is none."""
        classifier = self._models.classifier(self.model)
        table = np.full((len(merged), COLUMNS), np.nan, dtype=np.float32)
        for first in range(0, len(merged), self._batch):
            scores = classifier.scores(merged[first : first + self._batch])
            table[first : first + len(scores), : scores.shape[1]] = scores
        return table

    def stats(self) -> dict[str, dict[str, object]]:
        """What each engine did so far, by slot."""
        slots = {"dna": self._dna, "protein": self._protein}
        return {name: slot.load().stats.as_dict() for name, slot in slots.items()}
