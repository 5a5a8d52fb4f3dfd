"""All that happens in one prediction, stage by stage.

1 chunking, 2 translation, 3 and 4 splitting, 5 DNA features, 6 protein features, 7 merging,
8 prediction, 9 consensus. A stage is one unit of work, or one unit per split file, in the
ledger: what is whole and was made from the same input, model and settings is not done again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virnucpro.core.device import detect_cuda_devices
from virnucpro.core.errors import WorkersFailedError
from virnucpro.core.files import read_json
from virnucpro.pipeline import orf_stages, results
from virnucpro.pipeline.failed_files import record_lost_shards
from virnucpro.pipeline.ingest import check_inputs, ingest
from virnucpro.pipeline.jobs import FeatureJob
from virnucpro.pipeline.output_dir import working_in
from virnucpro.pipeline.paths import default_output_dir
from virnucpro.pipeline.run_setup import Run, choose_model, prepare
from virnucpro.pipeline.runtime_config import RuntimeConfig
from virnucpro.pipeline.settings import PredictionSettings
from virnucpro.pipeline.shard_plan import unit_of

if TYPE_CHECKING:
    from virnucpro.models.specs import EncoderSpec
    from virnucpro.pipeline.persistent_pool import PersistentWorkerPool

logger = logging.getLogger("virnucpro.pipeline")

Slot = Literal["dna", "protein"]
TITLES: dict[Slot, str] = {"dna": "Embedding DNA", "protein": "Embedding proteins"}

# Their vectors differ in the last bits, so that a resumed run takes its own only.
_FILE_WISE, _PACKED = "file-wise", "packed"


def run_prediction(
    input_files: Sequence[Path],
    output_dir: Path | None = None,
    settings: PredictionSettings | None = None,
    persistent_models: bool = False,
    use_v2_architecture: bool = False,
    runtime_config: RuntimeConfig | None = None,
) -> int:
    """Call every record of `input_files`; results lie in `output_dir`.

    Args:
        input_files: FASTA or FASTQ, plain or compressed; `-` is standard input.
        output_dir: None means `{stem}_predictions` in the current directory.
        settings: model, computing and output; None means the defaults.
        persistent_models: keep encoders loaded in worker processes between stages.
        use_v2_architecture: embed proteins with the packed engine, one process per GPU.
        runtime_config: how the packed engine runs; None means the defaults.

    Returns:
        Exit code: 0 done, 6 done but for the files named in failed_files.txt.

    Raises:
        VirNucProError: what a user can act on; its `exit_code` says which kind.
    """
    settings = settings or PredictionSettings()
    out = Path(output_dir) if output_dir is not None else default_output_dir(input_files)
    reference, model_path = settings.inputs.reference, settings.model.model_path
    check_inputs([*input_files, *([reference] if reference else [])])
    model = choose_model(settings.model)
    read = [*input_files, *(path for path in (reference, model_path) if path is not None)]
    with working_in(out, settings.output.resume, settings.output.force, read):
        run = prepare(input_files, out, model, settings)
        if run is None:
            logger.info("Already complete: %s", out)
            results.keep(out, settings.output)
            return results.DONE
        run.record.check_free(*results.final_files(run))  # now, not after hours of work
        if not run.has_model_calls:
            run.record.check_free(*results.stage_files(run))
            counts = _orf_stages(run)
            with ExitStack() as stack:
                embed = _Embedding(run, counts, persistent_models, stack)
                _feature_stages(embed, use_v2_architecture, runtime_config or RuntimeConfig())
            missing = results.merge(run, counts["files"])
            results.score(run, counts["files"], missing)
            results.call(run, missing)
        return results.finish(run)


def _orf_stages(run: Run) -> dict[str, int]:
    """Stages 1 to 4: input files -> split files of distinct ORFs; how many `embedded`, `files`."""
    paths, policy, per_file = run.paths, run.model.orf_policy, run.per_file
    counts = run.stage(
        "chunking", [paths.chunked, paths.records],
        lambda: ingest(run.sources, paths, run.settings.model, policy),
    )  # fmt: skip
    chunks = counts["chunks"]
    counts = run.stage(
        "translation", [paths.nucleotide, paths.protein, paths.orf_table],
        lambda: orf_stages.translate(paths, policy, run.workers, run.reporter, chunks),
    )  # fmt: skip
    run.record.claim(*orf_stages.split_files(paths, counts["orfs"], per_file))
    return run.stage(
        "splitting", [paths.unique_table], lambda: orf_stages.split(paths, per_file),
        more=lambda counts: orf_stages.split_pairs(paths, counts.get("files", 0)),
    )  # fmt: skip


def _feature_stages(embed: _Embedding, use_v2: bool, config: RuntimeConfig) -> None:
    """Stages 5 and 6: each slot goes through one engine, chosen here."""
    run = embed.run
    # Stage 5: DNA vectors (DNABERT-S, or the small model's DNA encoder)
    with run.record.stage("dna_features") as counts:
        if use_v2 and run.settings.compute.dnabert_v2:
            counts |= embed.packed("dna", run.model.dna, config)
        else:
            counts |= embed.file_wise("dna", run.model.dna)
    # Stage 6: protein vectors (ESM-2, or the small model's protein encoder)
    with run.record.stage("protein_features") as counts:
        if use_v2:
            logger.info("ESM-2: Using v2.0 async architecture")
            counts |= embed.packed("protein", run.model.protein, config)
            logger.info("v2.0 ESM-2 complete: %d feature files created", counts["files"])
        else:
            counts |= embed.file_wise("protein", run.model.protein)


class _Embedding:
    """The two ways to embed the split files of a run; both leave the same feature files."""

    def __init__(
        self, run: Run, counts: Mapping[str, int], persistent: bool, stack: ExitStack
    ) -> None:
        self.run, self.orfs = run, counts["embedded"]
        self.letters = {"dna": counts["embedded_nt"], "protein": counts["embedded_aa"]}
        self.per_file = run.per_file
        self.numbers = range(1, counts["files"] + 1)
        self._persistent, self._stack = persistent, stack
        self._pool: PersistentWorkerPool | None = None

    def file_wise(self, slot: Slot, spec: EncoderSpec) -> dict[str, int]:
        """v1: one file after another goes to a worker on each device, in padded batches."""
        from virnucpro.pipeline.work_queue import BatchQueueManager

        run, todo, made_from = self.run, [], [_FILE_WISE, self._tokens(slot)]
        for number in self.numbers:
            job = self._job(slot, spec, number)
            if not run.is_done(_unit(slot, job.output_file), [job.output_file], made_from):
                run.begin(_unit(slot, job.output_file), [job.output_file])
                todo.append(job)

        def commit(job: FeatureJob) -> None:
            run.commit(_unit(slot, job.output_file), [job.output_file], {}, made_from)

        compute, pool = run.settings.compute, self._worker_pool()
        queue = BatchQueueManager(compute.devices, use_persistent_pool=pool,
            cache_clear_interval=compute.cache_clear_interval,
            worker_timeout=compute.worker_timeout, progress=run.reporter,
        )  # fmt: skip
        result = queue.process(todo, run.paths.failed_files, commit, TITLES[slot])
        run.record.note_engines(slot, [result.engine] if result.engine else [])
        counts = {"files": len(result.finished), "kept": len(self.numbers) - len(todo)}
        return {**counts, "failed": len(result.failed), "tokens": result.tokens}

    def packed(self, slot: Slot, spec: EncoderSpec, config: RuntimeConfig) -> dict[str, Any]:
        """v2: all files at once, packed, one process per GPU; then vectors back to their files."""
        from virnucpro.pipeline.multi_gpu_inference import run_multi_gpu_inference
        from virnucpro.pipeline.shard_merge import lost_shards, partial_file

        run, paths, compute = self.run, self.run.paths, self.run.settings.compute
        files = [paths.split_of(slot, number) for number in self.numbers]
        todo = self._not_packed(slot)
        if not todo:
            return {"files": 0, "kept": len(files)}
        folder = paths.esm_v2 if slot == "protein" else paths.dnabert_v2
        run.record.claim(folder)
        folder.mkdir(exist_ok=True)
        model_config = {
            "model_type": "esm2" if slot == "protein" else "dnabert",
            "model_name": spec.name,
            "enable_fp16": compute.dtype in ("auto", "float16"),
            "encoder_spec": spec,
        }
        num_gpus = compute.ranks or len(config.devices) or len(detect_cuda_devices()) or 1
        logger.info("%s: %d ranks", spec.name, num_gpus)
        with run.reporter.create_file_bar(self.orfs, TITLES[slot], "ORFs") as bar:
            h5_path, failed_ranks = run_multi_gpu_inference(
                fasta_files=files,
                output_dir=folder,
                model_config=model_config,
                world_size=num_gpus,
                runtime_config=config,
                on_sequences=bar.update,
            )
        engines = read_json(folder / "stage.json").get("ranks", [])
        run.record.note_engines(slot, [stats for stats in engines if stats])
        lost = lost_shards(h5_path) if failed_ranks else {}
        label = "ESM-2" if slot == "protein" else "DNABERT-S"
        if failed_ranks and not lost:
            raise WorkersFailedError(failed_ranks, num_gpus, folder / "logs", label)
        record_lost_shards(paths.failed_files, folder, label, lost)
        done = self._to_files(slot, partial_file(h5_path) if lost else h5_path, todo)
        for output in done if not lost else ():
            run.commit(_unit(slot, output), [output], {}, _PACKED)
        tokens = sum(int(stats.get("tokens", 0)) for stats in engines if stats)
        counts = {"files": len(done), "kept": len(files) - len(todo), "tokens": tokens}
        return {**counts, "failed_shards": len(lost)}

    def _to_files(self, slot: Slot, h5_path: Path, numbers: Sequence[int]) -> list[Path]:
        """Vectors from shard order into the feature files of these numbers."""
        paths = self.run.paths
        if slot == "protein":  # a file without DNA vectors has nothing to be merged with
            dna_files = [paths.dna_features(n) for n in numbers if paths.dna_features(n).exists()]
            return _stream_h5_to_pt_files(h5_path, paths.protein_dir, dna_files)
        from virnucpro.pipeline.row_index import write_dna_files

        outputs = [paths.dna_features(number) for number in numbers]
        write_dna_files(h5_path, [paths.split_of(slot, n) for n in numbers], outputs)
        return outputs

    def _not_packed(self, slot: Slot) -> list[int]:
        """Numbers of the files whose vectors the packed engine has not made yet."""
        run, todo = self.run, []
        for number in self.numbers:
            output = run.paths.features_of(slot, number)
            if not run.is_done(_unit(slot, output), [output], _PACKED):
                run.begin(_unit(slot, output), [output])
                todo.append(number)
        return todo

    def _job(self, slot: Slot, spec: EncoderSpec, number: int) -> FeatureJob:
        compute, paths = self.run.settings.compute, self.run.paths
        return FeatureJob(
            encoder=spec,
            input_file=paths.split_of(slot, number),
            output_file=paths.features_of(slot, number),
            rows=min(self.per_file, self.orfs - (number - 1) * self.per_file),
            token_budget=self._tokens(slot),
            dtype=compute.dtype,
            expected_tokens=unit_of(spec.kind).tokens_of(self.letters[slot], self.orfs),
        )

    def _tokens(self, slot: Slot) -> int | None:
        compute = self.run.settings.compute
        return compute.dna_tokens if slot == "dna" else compute.protein_tokens

    def _worker_pool(self) -> PersistentWorkerPool | None:
        if self._persistent and self._pool is None:
            from virnucpro.pipeline.persistent_pool import PersistentWorkerPool

            compute = self.run.settings.compute
            pool = PersistentWorkerPool(
                len(compute.devices), self.run.model.name, devices=compute.devices,
                cache_clear_interval=compute.cache_clear_interval,
                worker_timeout=compute.worker_timeout,
            )  # fmt: skip
            self._pool = self._stack.enter_context(pool)
        return self._pool


def _unit(slot: Slot, path: Path) -> str:
    return f"{slot} features {path.name}"


def _stream_h5_to_pt_files(
    h5_path: Path, output_dir: Path, nucleotide_feature_files: Sequence[Path]
) -> list[Path]:
    """Shard order -> file order: one protein feature file beside each nucleotide one.

    Streams: ids are indexed in a few bytes each, and the vectors of one file are in memory.

    Args:
        h5_path: datasets `sequence_ids` (n,) and `embeddings` (n, d) float32, in any order.
        output_dir: gets `output_k_ESM.pt`; made if missing.
        nucleotide_feature_files: `output_k_DNABERT_S.pt`; they give ids and their order.

    Returns:
        The files written, in the order of `nucleotide_feature_files`.

    Raises:
        DamagedFeaturesError: a nucleotide file cannot be read.
        OutputError: a file could not be written; nothing half-written is left behind.
    """
    from virnucpro.pipeline.feature_files import read_dna_ids, write_protein_features
    from virnucpro.pipeline.row_index import VectorFile

    output_dir.mkdir(parents=True, exist_ok=True)
    written = []
    with VectorFile(h5_path, "v2.0 ESM-2 output") as vectors:
        for nucleotide_file in nucleotide_feature_files:
            name = nucleotide_file.stem.removesuffix("_S").removesuffix("_DNABERT")
            output_file = output_dir / f"{name}_ESM.pt"
            write_protein_features(output_file, vectors.of(read_dna_ids(nucleotide_file)))
            written.append(output_file)
    return written
