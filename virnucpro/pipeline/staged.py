"""The staged path: the original's stages and files between reading and calling."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from virnucpro.core.errors import DamagedError
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.pipeline.features import DamagedFeaturesError, read_merged, read_records
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
    """Stages 1 to 4, in one pass; returns the distinct ORFs of each split file, from 1 on."""
    paths, ledger = run.paths, run.ledger
    name, key = "reading", digest_of(run.key, run.per_unit)
    if (entry := ledger.read(name, key)) is not None:
        logger.info("reading: done earlier, kept")
        return [int(size) for size in entry.facts["sizes"]]
    ledger.discard(name)
    sizes: list[int] = []
    outputs = [paths.chunked, paths.nucleotide, paths.protein]
    run.claim(*outputs)
    units: list[Unit] = []
    chunks: list[str] = []
    orfs: list[tuple[bytes, bytes]] = []

    def keep(texts: Sequence[str], dna: Sequence[bytes], protein: Sequence[bytes]) -> None:
        chunks.extend(texts)
        orfs.extend(zip(dna, protein, strict=True))

    with run.report.stage("reading") as counts, ExitStack() as stack:
        chunked, *whole = (stack.enter_context(atomic_write(path, "w")) for path in outputs)
        records = read_sources(run.sources)
        for event in input_pass(records, run.rules, run.per_unit, run.threads, keep):
            if isinstance(event, Unit):
                units.append(event)
                continue
            write_fasta(chunked, zip(event.chunk_ids(), chunks, strict=True), wrapped=True)
            for orf_id, orf in zip(event.orf_ids(), orfs, strict=True):
                for file, letters in zip(whole, orf, strict=True):
                    file.write(f">{orf_id}\n{letters.decode('ascii')}\n")
            for unit in units:
                ids = event.orf_ids(unit.rows)
                for slot, sequences in (("dna", unit.dna), ("protein", unit.protein)):
                    outputs.append(path := paths.split_of(slot, unit.number + 1))
                    path.parent.mkdir(exist_ok=True)
                    run.claim(path)
                    with atomic_write(path, "w") as file:
                        texts = (sequence.decode("ascii") for sequence in sequences)
                        write_fasta(file, zip(ids, texts, strict=True), wrapped=True)
            sizes += map(len, units)
            counts["orfs"] = counts.get("orfs", 0) + len(orfs)
            for held in (units, chunks, orfs):
                held.clear()
        counts |= {"embedded": sum(sizes), "files": len(sizes)}
    ledger.commit(name, key, outputs=outputs, facts={"sizes": sizes})
    return sizes


def merge(run: Run, todo: Sequence[int], failures: dict[int, str]) -> dict[str, int]:
    """Stage 7: join vectors, pair by pair; a DamagedError if a file is not what was written."""
    paths = run.paths
    numbers = {paths.features_of("dna", n): n for n in todo if n - 1 not in failures}
    for unit in failures:
        paths.merged(unit + 1).unlink(missing_ok=True)  # of an earlier model, perhaps
    run.claim(*map(paths.merged, numbers.values()))
    proteins = [paths.features_of("protein", n) for n in numbers.values()]
    merged, failed_pairs = parallel_merge_with_progress(
        list(numbers), proteins, paths.merged_dir,
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

    compute, scored = run.settings.compute, 0
    models = LoadedModels(run.devices[0], run.threads)
    scorer = Scorer(run.model, models, classifier_batch=compute.classifier_batch)
    merged_files = [run.paths.merged(n) for n in numbers]
    readers = min(compute.reader_threads, run.threads - 1)  # this thread scores
    read_ahead = spread(read_merged, merged_files, readers)
    with run.reporter.create_file_bar(len(numbers), "Scoring", "files") as bar:
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
