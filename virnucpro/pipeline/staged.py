"""The staged path: the original's stages and files between reading and calling.

1 chunking, 2 translation, 3 and 4 splitting are one input pass that writes files; 5 DNA
features, 6 protein features, 7 merging and 8 prediction go from file to file. A split file is a
unit of work, with the same rows as on the default path; its scores go into the same ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from virnucpro.core.errors import DamagedError
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.pipeline.feature_files import DamagedFeaturesError, read_merged, read_records
from virnucpro.pipeline.input_pass import Unit, input_pass
from virnucpro.pipeline.inputs import read_sources
from virnucpro.pipeline.parallel_merge import parallel_merge_with_progress
from virnucpro.pipeline.run import Run
from virnucpro.pipeline.stream import ScoreStore
from virnucpro.sequences.fasta import write_fasta

logger = logging.getLogger("virnucpro.pipeline")


def staged_files(run: Run) -> list[Path]:
    """What the stages write: files of known names, and numbered ones that exist."""
    paths = run.paths
    folders = (paths.nucleotide_dir, paths.protein_dir, paths.merged_dir)
    numbered = [path for folder in folders for path in sorted(folder.glob("output_*"))]
    return [paths.chunked, paths.nucleotide, paths.protein, *folders, *numbered]


def written_units(run: Run) -> list[int]:
    """Stages 1 to 4: chunk, translate and split, in one pass that writes the original's files.

    Returns:
        Distinct ORFs of each split file, which are numbered from 1.
    """
    paths, ledger = run.paths, run.ledger
    name, key = "reading", digest_of(run.key, run.per_unit)
    if (entry := ledger.read(name, key)) is not None:
        logger.info("reading: done earlier, kept")
        return [int(size) for size in entry.facts["sizes"]]
    ledger.discard(name)
    sizes: list[int] = []
    outputs = [paths.chunked, paths.nucleotide, paths.protein]
    run.claim(*outputs)
    with run.report.stage("reading") as counts:
        with (
            atomic_write(paths.chunked, "w") as chunked,
            atomic_write(paths.nucleotide, "w") as nucleotide,
            atomic_write(paths.protein, "w") as protein,
        ):
            units: list[Unit] = []
            chunks: list[str] = []
            orfs: list[tuple[bytes, bytes]] = []

            def keep(texts: Sequence[str], dna: Sequence[bytes], protein: Sequence[bytes]) -> None:
                chunks.extend(texts)
                orfs.extend(zip(dna, protein, strict=True))

            records = read_sources(run.sources)
            for event in input_pass(records, run.rules, run.per_unit, run.threads, keep):
                if isinstance(event, Unit):
                    units.append(event)
                    continue
                write_fasta(chunked, zip(event.chunk_ids(), chunks, strict=True), wrapped=True)
                for orf_id, (dna, amino) in zip(event.orf_ids(), orfs, strict=True):
                    nucleotide.write(f">{orf_id}\n{dna.decode('ascii')}\n")
                    protein.write(f">{orf_id}\n{amino.decode('ascii')}\n")
                for unit in units:
                    ids = event.orf_ids(unit.rows)
                    outputs.append(_split_file(run, "dna", unit.number, ids, unit.dna))
                    outputs.append(_split_file(run, "protein", unit.number, ids, unit.protein))
                sizes += map(len, units)
                counts["orfs"] = counts.get("orfs", 0) + len(orfs)
                for held in (units, chunks, orfs):
                    held.clear()
        counts |= {"embedded": sum(sizes), "files": len(sizes)}
    ledger.commit(name, key, outputs=outputs, facts={"sizes": sizes})
    return sizes


def _split_file(
    run: Run, slot: str, unit: int, ids: Sequence[str], sequences: Sequence[bytes]
) -> Path:
    path = run.paths.split_of(slot, unit + 1)
    path.parent.mkdir(exist_ok=True)
    run.claim(path)
    with atomic_write(path, "w") as file:
        texts = (sequence.decode("ascii") for sequence in sequences)
        write_fasta(file, zip(ids, texts, strict=True), wrapped=True)
    return path


def merge(run: Run, todo: Sequence[int], failures: dict[int, str]) -> dict[str, int]:
    """Stage 7: join DNA and protein vectors, one file pair at a time.

    Raises:
        DamagedError: a feature file is not what was written.
    """
    paths = run.paths
    numbers = {paths.dna_features(n): n for n in todo if n - 1 not in failures}
    for unit in failures:
        paths.merged(unit + 1).unlink(missing_ok=True)  # of an earlier model, perhaps
    run.claim(*map(paths.merged, numbers.values()))
    merged, failed_pairs = parallel_merge_with_progress(
        list(numbers), [paths.protein_features(n) for n in numbers.values()], paths.merged_dir,
        run.settings.compute.merge_workers, run.reporter, run.threads,
    )  # fmt: skip
    for dna, protein, reason in failed_pairs:
        for path in filter(Path.exists, (dna, protein)):
            try:
                read_records(path)
            except DamagedFeaturesError as error:
                raise DamagedError(path, error.problem) from error
        failures[numbers[dna] - 1] = f"{dna}|merge|{reason}"
        paths.merged(numbers[dna]).unlink(missing_ok=True)
    return {"files": len(merged), "failed": len(failed_pairs)}


def classify(
    run: Run, store: ScoreStore, numbers: Sequence[int], sizes: Sequence[int]
) -> dict[str, int]:
    """Stage 8: merged files -> scores of units, row by row."""
    from virnucpro.engines.feeding import spread
    from virnucpro.scores.scorer import LoadedModels, Scorer

    compute = run.settings.compute
    models = LoadedModels(compute.devices[0], run.threads)
    scorer = Scorer(run.model, models, classifier_batch=compute.classifier_batch)
    scored = 0
    with run.reporter.create_file_bar(len(numbers), "Scoring", "files") as bar:
        merged_files = [run.paths.merged(n) for n in numbers]
        readers = min(compute.reader_threads, run.threads - 1)  # this thread scores
        read_ahead = spread(read_merged, merged_files, readers)
        for n, path in zip(numbers, merged_files, strict=True):
            try:
                merged = next(read_ahead)
            except DamagedFeaturesError as error:
                raise DamagedError(path, error.problem) from error
            if len(merged) != sizes[n - 1]:
                rows = f"{len(merged)} rows where the split file has {sizes[n - 1]}"
                raise DamagedError(path, rows)
            store.commit(n - 1, scorer.classify(merged.vectors))
            scored += len(merged)
            bar.update(1)
    return {"scored": scored, "files": len(numbers)}
