"""From labelled FASTA to a model directory: the steps of `virnucpro train`."""

import logging
import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save

from virnucpro.core.errors import ConfigError
from virnucpro.core.files import atomic_write
from virnucpro.core.progress import ProgressReporter
from virnucpro.encoders.small import save_tower
from virnucpro.models.classifier_file import MINI_KIND, PUBLISHED_KIND
from virnucpro.models.manifest import write_manifest
from virnucpro.models.store import CLASSIFIER_FILE, base_model, load_model
from virnucpro.pipeline.direct import DirectScorer
from virnucpro.scores.classifier import mini_scores
from virnucpro.scores.kinds import Kinds
from virnucpro.training import corpus as corpora
from virnucpro.training import windows as draws
from virnucpro.training.calibrate import calibrated
from virnucpro.training.corpus import NULL, OTHER, VIRUS, Bases, Corpus, Label
from virnucpro.training.fit import Fit, FitSettings, MiniModel, logits_of
from virnucpro.training.jobs import Job, MlpRecipe, Recipe, digest
from virnucpro.training.mlp import MlpFit, embed_windows, fit_mlp
from virnucpro.training.sampler import oriented
from virnucpro.training.windows import Drawing

logger = logging.getLogger("virnucpro.training")

CALIBRATION_FILE = "calibration.json"
DEV_LENGTHS = (150, 300, 500, 1000)
_NULL_SOURCE_WINDOWS = 4_000
_WORN_COPIES = 3


def train_bundled(job: Job, recipe: Recipe, settings: FitSettings, output: Path) -> Fit:
    """Train, resuming what `settings.folder` holds; once finished, write the calibrated model."""
    corpus, dev = corpora.load_labelled(job.data)
    logger.info("training on %d bases of %d groups", len(corpus.bases), len(corpus.groups))
    drawing = Drawing(DEV_LENGTHS, job.dev_count, job.dev_count // 4, recipe.seed)
    start = load_model(job.start, settings.folder) if job.start else None
    dev_windows = draws.dev_windows(dev, drawing)
    fit = Fit(with_made_up(corpus, recipe), dev_windows, recipe, settings, job.virus_kinds, start)
    fit.run()
    if fit.finished:
        model = fit.best_model()
        score = partial(probabilities, model, Kinds(fit.groups))
        output.mkdir(parents=True, exist_ok=True)
        calibration = calibrated(score, dev, job, fit.groups)
        calibration.save(output / CALIBRATION_FILE, ", ".join(sorted(dev)))
        source = f"virnucpro train, recipe {digest(recipe)[:16]}, step {fit.best_step}"
        export_model(output, job.name, model, fit.groups, job.chunk_nt, source)
    return fit


def with_made_up(corpus: Corpus, recipe: Recipe) -> Corpus:
    """The corpus, worn copies of families that insert themselves into genomes, and nulls."""
    made_up, rng = [*corpus.records()], np.random.default_rng([recipe.seed, 7])
    for label, name, bases in corpus.records():
        if label.target == VIRUS and label.group in recipe.decayed:
            worn = Label(OTHER, "insertion", label.group)
            for k in range(_WORN_COPIES):
                made_up.append((worn, f"{name} worn {k}", draws.decayed(rng, bases)))
    length = max(b.longest for b in recipe.buckets)
    windows = draws.draw_windows(corpus, "", length, _NULL_SOURCE_WINDOWS, rng).bases
    if recipe.null_share > 0 and len(windows):
        has_adapters = recipe.noise.adapter_share > 0
        bank = draws.null_bank(rng, windows, recipe.null_bank_share, has_adapters)
        for kind, block in bank.items():
            null = Label(NULL, "null", kind)
            made_up += [(null, f"{kind}{i}", row) for i, row in enumerate(block)]
    return Corpus.of(made_up)


def probabilities(
    model: MiniModel, kinds: Kinds, bases: Bases, rows: int = 256
) -> NDArray[np.float32]:
    """Scores of windows (n, length), `rows` at a time, as `Classifier.scores` gives them."""
    windows = oriented(bases, next(model.parameters()).device)
    return mini_scores(*logits_of(model, windows, rows), kinds)


def export_model(
    folder: Path, name: str, model: MiniModel, groups: list[str], chunk_nt: int, source: str
) -> None:
    """Write weights and the manifest beside the `calibration.json` that is in the folder."""
    said: dict[str, Any] = {}
    for slot, encoder in (("dna", model.dna), ("protein", model.protein)):
        said[slot] = {"kind": encoder.kind, "dim": encoder.dim, "file": f"{slot}.safetensors"}
        save_tower(encoder, folder / f"{slot}.safetensors")
    said |= {"calibration": CALIBRATION_FILE, "groups": groups, "chunk_nt": chunk_nt,
             "orf_policy": {"name": "longest", "keep": 1}}  # fmt: skip
    head = {name: tensor.half() for name, tensor in model.classifier.state_dict().items()}
    _write_model(folder, head, MINI_KIND, said, name=name, source=source, licence="MIT")


def train_mlp(
    job: Job, recipe: MlpRecipe, settings: FitSettings, home: Path, output: Path
) -> MlpFit | None:
    """Draw windows, embed them, train, write the model directory; None if time was up.

    Encoders that are files of a model are copied.
    """
    base = base_model(job.model, home)
    train, dev = corpora.load_labelled(job.data)
    encoder = DirectScorer(base, str(settings.device))
    stop_at = time.monotonic() + settings.stop_after
    nulls = int(recipe.null_share * recipe.windows / 3)
    progress, found = ProgressReporter(settings.progress), []
    for name, sets, count, null_count in (
        ("train", {"train": train}, recipe.windows, nulls), ("dev", dev, recipe.dev_windows, 0)
    ):  # fmt: skip
        drawing = Drawing((base.chunk_nt,), count, null_count, recipe.seed)
        if not (windows := draws.dev_windows(sets, drawing)):
            raise ConfigError(f"no record is as long as a chunk ({base.chunk_nt} nt)")
        features = embed_windows(settings.folder, name, windows, encoder, stop_at, progress)
        if features is None:
            return None
        found.append(features)
        share = 100 * len(np.unique(features.window)) / len(features.viral)
        logger.info("%s: %d rows; %.1f%% of the windows", name, len(features.window), share)
    fit = fit_mlp(found[0], found[1], recipe, settings.device, progress)

    output.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {"calibration": "", "groups": [], "chunk_nt": base.chunk_nt,
                            "orf_policy": asdict(base.orf_policy)}  # fmt: skip
    for slot, spec in (("dna", base.dna), ("protein", base.protein)):
        said[slot] = {"installed": spec.name}
        if spec.is_small:
            target = output / f"{slot}.safetensors"
            if target.resolve() != spec.path.resolve():
                shutil.copyfile(spec.path, target)
            said[slot] = {"kind": spec.kind, "dim": spec.dim, "file": target.name}
    state = fit.network.state_dict()
    del state["bn1.num_batches_tracked"]
    source = f"virnucpro train, recipe {digest(recipe)[:16]}, epoch {fit.epoch}"
    _write_model(output, state, PUBLISHED_KIND, said, name=job.name, source=source,
                 licence="not stated")  # fmt: skip
    return fit


def _write_model(
    folder: Path, state: dict[str, torch.Tensor], kind: str, said: dict[str, Any], **origin: str
) -> None:
    """Write a classifier's weights, and the manifest of the folder."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    with atomic_write(folder / CLASSIFIER_FILE) as file:
        file.write(save(tensors, metadata={"kind": kind}))
    encoders = [said[slot]["file"] for slot in ("dna", "protein") if "file" in said[slot]]
    names = [CLASSIFIER_FILE, *encoders, *filter(None, [said["calibration"]])]
    write_manifest(folder, names, revision="", model={**said, "classifier": CLASSIFIER_FILE},
                   **origin)  # fmt: skip
