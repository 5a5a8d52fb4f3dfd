"""Before the first stage: the model, the inputs, the key of the run, and its directory."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from virnucpro import __version__
from virnucpro.core.checkpoint import StageLedger
from virnucpro.core.device import usable_cpus
from virnucpro.core.errors import UsageError
from virnucpro.core.files import digest_of
from virnucpro.core.progress import ProgressReporter
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import resolve_model
from virnucpro.pipeline.ingest import describe_inputs, spool
from virnucpro.pipeline.inputs import Source, check_grouping, plan_sources
from virnucpro.pipeline.output_dir import remove_intermediates, remove_leftovers
from virnucpro.pipeline.paths import RunPaths
from virnucpro.pipeline.run_record import (
    FORMAT,
    RunRecord,
    has_whole_model_outputs,
    is_complete,
    read_run,
)
from virnucpro.pipeline.settings import Compute, ModelChoice, PredictionSettings
from virnucpro.reports.tables import SCHEMA
from virnucpro.sequences.fasta import sample_name

logger = logging.getLogger("virnucpro.pipeline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One prediction under way.

    Attributes:
        sources: the samples to read, standard input already spooled.
        paths: where everything lies.
        model: what decides scores.
        settings: what was asked for.
        key: digest of everything that decides the bytes of a unit, the kind of device included.
        has_model_calls: whether an earlier run left all that the final tables are made from.
        ledger: finished units of work.
        record: run.json.
        reporter: progress.
    """

    sources: tuple[Source, ...]
    paths: RunPaths
    model: ModelSpec
    settings: PredictionSettings
    key: str
    has_model_calls: bool
    ledger: StageLedger
    record: RunRecord
    reporter: ProgressReporter

    @property
    def per_file(self) -> int:
        """ORFs of a split file, and the most that a killed run has to embed again."""
        compute = self.settings.compute
        return orfs_per_file(compute.sequences_per_file, self.model, device_kind(compute))

    @property
    def threads(self) -> int:
        """CPU threads of all processes together."""
        return self.settings.compute.threads or usable_cpus()

    def unit_key(self, unit: str, made_from: object = "") -> str:
        """The ledger's key of one unit of work; `made_from` is what else decides its bytes."""
        return digest_of(self.key, unit, made_from)

    def is_done(self, unit: str, outputs: Sequence[Path], made_from: object = "") -> bool:
        """Whether an earlier run finished `unit` and its files are still whole.

        Raises:
            DamagedError: a file fails its checksum, and repair was not asked for.
        """
        return self.ledger.is_done(unit, self.unit_key(unit, made_from), outputs)

    def begin(self, unit: str, outputs: Sequence[Path]) -> bool:
        """Forget what an earlier run made of `unit`; whether it had committed anything."""
        return self.ledger.discard(unit, outputs)

    def commit(
        self, unit: str, outputs: Sequence[Path], counts: dict[str, int], made_from: object = ""
    ) -> None:
        """Record that `unit` is finished; its files have their final names."""
        self.ledger.commit(unit, self.unit_key(unit, made_from), outputs, counts)

    def stage(
        self, name: str, outputs: Sequence[Path], make: Callable[[], Mapping[str, int]],
        made_from: object = "",
        more: Callable[[Mapping[str, int]], Sequence[Path]] = lambda counts: (),
    ) -> dict[str, int]:  # fmt: skip
        """Do a stage that is one unit of work, unless it is done; either way, its counts.

        Args:
            name: of the stage and the unit.
            outputs: the files it makes.
            make: does it and counts.
            made_from: what decides the outputs besides the run's key.
            more: further outputs, which depend on the counts.
        """
        with self.record.stage(name) as counts:
            known = self.ledger.facts(name)
            if self.is_done(name, [*outputs, *more(known)], made_from):
                logger.info("%s: done earlier, kept", name)
                counts |= known
            else:
                self.record.claim(*outputs)
                self.begin(name, [*outputs, *more(known)])
                counts |= make()
                self.commit(name, [*outputs, *more(counts)], counts, made_from)
                found = (f"{n} {k.removeprefix('status:')}" for k, n in counts.items() if n)
                logger.info("%s: %s", name, ", ".join(found) or "nothing to do")
        return counts


def features_unit(slot: str, path: Path) -> str:
    """The unit of work that makes a feature file of a slot, `dna` or `protein`."""
    return f"{slot} features {path.name}"


def choose_model(choice: ModelChoice) -> ModelSpec:
    """Find the model, and lay the user's chunk length and ORF policy over its own.

    Raises:
        ModelError: it is not installed, or damaged.
    """
    model = resolve_model(choice.model_type, choice.model_path, choice.home)
    logger.info("Model: %s (%s), hash %s", model.name, choice.model_type, model.digest[:12])
    if choice.model_type == "mini":
        logger.info("  the published models: virnucpro models fetch 500, then -m 500")
    if choice.chunk_nt is not None:
        model = replace(model, chunk_nt=choice.chunk_nt)
    if choice.orf_policy is not None and choice.orf_policy != model.orf_policy.name:
        logger.warning(
            "--orf-policy %s: the model was trained with %s; scores are outside its training",
            choice.orf_policy, model.orf_policy.name,
        )  # fmt: skip
        model = replace(model, orf_policy=replace(model.orf_policy, name=choice.orf_policy))
    return model


def prepare(
    input_files: Sequence[Path], output_dir: Path, model: ModelSpec, settings: PredictionSettings
) -> Run | None:
    """Hash the inputs and open the run; None where a finished run of the same keys lies here.

    Raises:
        InputError: an input cannot be read.
        OutputError: the output directory cannot be written.
        UsageError: inputs cannot be paired, or standard input is given twice.
    """
    paths = RunPaths(output_dir, sample_name(input_files[0]), model.chunk_nt)
    is_new = read_run(output_dir) is None and not paths.ledger.is_dir()
    remove_leftovers(paths)
    paths.checkpoints.mkdir(parents=True, exist_ok=True)
    asked, output = settings.inputs, settings.output
    check_grouping(input_files, asked.paired)
    spooled = spool(input_files, paths.checkpoints)
    sources = plan_sources(input_files, spooled, asked.paired, asked.reference)
    described = describe_inputs(input_files, spooled)
    samples = [source.sample for source in sources]
    key = digest_of(_what_decides(described, samples, model, settings))
    calling = {**asdict(settings.calling.thresholds), "gzip_fasta": settings.calling.gzip_fasta}
    tables_key = digest_of(key, calling, SCHEMA)
    earlier = read_run(output_dir) if output.resume else None
    if earlier is not None:
        _check_same_inputs(output_dir, earlier, described)
    if earlier is not None and is_complete(output_dir, earlier, tables_key, output.repair):
        if not output.keep_intermediate:
            remove_intermediates(paths, earlier)
        return None
    data = _about(model, settings) | {
        "key": key, "tables_key": tables_key, "inputs": described, "samples": samples,
        "calling": {"preset": settings.calling.preset, **calling},
    }  # fmt: skip
    has_model_calls = False
    if earlier is not None:
        data["files"] = sorted({".checkpoints", *map(str, earlier["files"])})
        has_model_calls = has_whole_model_outputs(output_dir, earlier, key, output.repair)
    if has_model_calls and earlier is not None:
        kept = ("stages", "outputs", "model_outputs", "engines", "devices", "gpu_bytes")
        data |= {name: earlier[name] for name in kept if name in earlier}
    kind, per_file = device_kind(settings.compute), settings.compute.sequences_per_file
    run = Run(
        sources=sources,
        paths=paths,
        model=model,
        settings=settings,
        key=digest_of(key, kind, orfs_per_file(per_file, model, kind)),
        has_model_calls=has_model_calls,
        ledger=StageLedger(paths.ledger, reuse=output.resume, repair=output.repair),
        record=RunRecord(paths, data, is_new),
        reporter=ProgressReporter(output.progress),
    )
    run.record.save()
    return run


def _about(model: ModelSpec, settings: PredictionSettings) -> dict[str, Any]:
    """What run.json says before anything is done."""
    return {
        "tool": "virnucpro", "format": FORMAT, "version": __version__, "status": "running",
        "key": "", "tables_key": "", "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv, "host": platform.platform(), "versions": _versions(),
        "model": {"name": model.name, "digest": model.digest, "chunk_nt": model.chunk_nt,
                  "orf_policy": model.orf_policy.name, "orf_keep": model.orf_policy.keep},
        "parameters": asdict(settings), "inputs": [], "samples": [], "calling": {},
        "sample_summary": [], "stages": {}, "files": [".checkpoints"], "outputs": {},
        "model_outputs": [],
    }  # fmt: skip


def _versions() -> dict[str, str]:
    """Of Python and of the packages that numbers come from."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy", "tokenizers", "h5py")}
    return {"python": platform.python_version(), **packages}


def _check_same_inputs(
    output_dir: Path, earlier: dict[str, Any], described: Sequence[dict[str, object]]
) -> None:
    """Refuse to go on with a run of other inputs: neither the same paths nor the same content.

    Raises:
        UsageError: names what lies there.
    """
    inputs = [entry for entry in earlier.get("inputs", ()) if isinstance(entry, dict)]
    known, found = (sorted(str(e.get("sha256")) for e in each) for each in (inputs, described))
    old, new = ([str(entry.get("path")) for entry in each] for each in (inputs, described))
    if not inputs or old == new or known == found:
        return
    raise UsageError(
        f"{output_dir} holds a run of {', '.join(old)}, not of {', '.join(new)}; "
        "choose another --output-dir, or --force to start over"
    )


def orfs_per_file(asked: int | None, model: ModelSpec, kind: str) -> int:
    """ORFs of a split file: as asked, else as published.

    A large encoder on a CPU takes seconds for each, and whole files are what survives a kill.
    """
    return asked or (100 if kind == "cpu" and model.is_large else 10_000)


def device_kind(compute: Compute) -> str:
    """`cuda` or `cpu`: their numbers differ, so that one never goes on with the other's vectors."""
    return compute.devices[0].split(":")[0]


def _what_decides(
    described: Sequence[dict[str, object]], samples: Sequence[str], model: ModelSpec,
    settings: PredictionSettings,
) -> dict[str, Any]:  # fmt: skip
    """Everything that decides scores and the form of the tables made with them, no more."""
    return {
        "format": FORMAT,
        "chunks": SCHEMA["chunks.tsv"],
        "inputs": [entry["sha256"] for entry in described],
        "names": [sample_name(str(entry["path"])) for entry in described],
        "samples": list(samples),
        "model": model.digest,
        "min_length": settings.model.min_length,
        "sample_n": settings.model.sample_n,
        "dtype": settings.compute.dtype,
        "packing": settings.compute.packing,
        "v1_attention": settings.compute.v1_attention,
        "paired": settings.inputs.paired,
    }
