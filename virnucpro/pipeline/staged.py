"""The staged path: the original's stages and files between reading and calling.

1 chunking, 2 translation, 3 and 4 splitting are one input pass that writes files; 5 DNA
features, 6 protein features, 7 merging and 8 prediction go from file to file. A split file is a
unit of work, with the same rows as on the default path; its scores go into the same ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from virnucpro.core.errors import DamagedError
from virnucpro.core.files import atomic_write, digest_of
from virnucpro.pipeline.input_pass import Shard, Unit, input_pass
from virnucpro.pipeline.inputs import read_sources
from virnucpro.pipeline.run import Run
from virnucpro.pipeline.stream import ScoreStore
from virnucpro.sequences.fasta_files import fasta_text, write_fasta

logger = logging.getLogger("virnucpro.pipeline")


@dataclass(slots=True)
class Units:
    """The split files of a run: their numbers are those of the units plus one."""

    sizes: list[int] = field(default_factory=list)

    @property
    def numbers(self) -> range:
        """Numbers of the split files, from 1."""
        return range(1, len(self.sizes) + 1)

    @property
    def orfs(self) -> int:
        """Distinct ORFs of all units."""
        return sum(self.sizes)


def staged_files(run: Run) -> list[Path]:
    """What the stages write: files of known names, and numbered ones that exist."""
    paths = run.paths
    folders = (paths.nucleotide_dir, paths.protein_dir, paths.merged_dir)
    numbered = [path for folder in folders for path in sorted(folder.glob("output_*"))]
    return [paths.chunked, paths.nucleotide, paths.protein, *folders, *numbered]


def written_units(run: Run) -> Units:
    """Stages 1 to 4: chunk, translate and split, in one pass that writes the original's files."""
    paths, ledger = run.paths, run.ledger
    name, key = "reading", digest_of(run.key, run.per_unit)
    if (entry := ledger.read(name, key)) is not None:
        logger.info("reading: done earlier, kept")
        return Units([int(size) for size in entry.facts["sizes"]])
    ledger.discard(name)
    units = Units()
    split: list[Path] = []
    run.claim(paths.chunked, paths.nucleotide, paths.protein)
    with run.report.stage("reading") as counts:
        with (
            atomic_write(paths.chunked, "w") as chunked,
            atomic_write(paths.nucleotide, "w") as nucleotide,
            atomic_write(paths.protein, "w") as protein,
        ):
            open_units: list[Unit] = []
            chunks: list[str] = []
            orfs: list[tuple[bytes, bytes]] = []

            def keep(texts: Sequence[str], dna: Sequence[bytes], protein: Sequence[bytes]) -> None:
                chunks.extend(texts)
                orfs.extend(zip(dna, protein, strict=True))

            records = read_sources(run.sources)
            for event in input_pass(records, run.rules, run.per_unit, run.threads, keep):
                if isinstance(event, Unit):
                    open_units.append(event)
                    continue
                write_fasta(
                    chunked, zip(event.chunk_ids(), chunks, strict=True),
                    wrapped=True,
                )  # fmt: skip
                for orf_id, (dna, amino) in zip(event.orf_ids(), orfs, strict=True):
                    nucleotide.write(fasta_text(orf_id, dna.decode("ascii")))
                    protein.write(fasta_text(orf_id, amino.decode("ascii")))
                split += _split(run, event, open_units)
                units.sizes += map(len, open_units)
                counts["orfs"] = counts.get("orfs", 0) + len(orfs)
                for held in (open_units, chunks, orfs):
                    held.clear()
        counts |= {"embedded": units.orfs, "files": len(units.sizes)}
    outputs = [paths.chunked, paths.nucleotide, paths.protein, *split]
    ledger.commit(name, key, outputs=outputs, facts={"sizes": units.sizes})
    return units


def _split(run: Run, shard: Shard, units: Iterable[Unit]) -> list[Path]:
    """Write the split files of a shard's units, DNA and protein of each."""
    written = []
    for unit in units:
        ids = shard.orf_ids(unit.rows)
        for slot, sequences in (("dna", unit.dna), ("protein", unit.protein)):
            path = run.paths.split_of(slot, unit.number + 1)
            path.parent.mkdir(exist_ok=True)
            run.claim(path)
            with atomic_write(path, "w") as file:
                texts = (sequence.decode("ascii") for sequence in sequences)
                write_fasta(file, zip(ids, texts, strict=True), wrapped=True)
            written.append(path)
    return written


def merge(run: Run, todo: Sequence[int], failures: dict[int, str]) -> dict[str, int]:
    """Stage 7: join DNA and protein vectors, one file pair at a time."""
    from virnucpro.pipeline.parallel_merge import parallel_merge_with_progress

    paths = run.paths
    numbers = [n for n in todo if n - 1 not in failures]
    for unit in failures:
        paths.merged(unit + 1).unlink(missing_ok=True)  # of an earlier model, perhaps
    run.claim(*(paths.merged(n) for n in numbers))
    merged, failed_pairs = parallel_merge_with_progress(
        [paths.dna_features(n) for n in numbers], [paths.protein_features(n) for n in numbers],
        paths.merged_dir, run.settings.compute.merge_workers, run.reporter,
    )  # fmt: skip
    number_of = {paths.dna_features(n): n for n in numbers}
    for dna, protein, reason in failed_pairs:
        for path in (dna, protein):
            _refuse_damaged(path)
        failures[number_of[dna] - 1] = f"{dna}|merge|{reason}"
        paths.merged(number_of[dna]).unlink(missing_ok=True)
    return {"files": len(merged), "failed": len(failed_pairs)}


def _refuse_damaged(path: Path) -> None:
    """See that a feature file, if it is there, is whole.

    Raises:
        DamagedError: it is not.
    """
    from virnucpro.pipeline.feature_files import DamagedFeaturesError, check_records

    try:
        check_records(path)
    except FileNotFoundError:
        return
    except DamagedFeaturesError as error:
        raise DamagedError(path, error.problem) from error


def classify(run: Run, store: ScoreStore, numbers: Sequence[int], units: Units) -> dict[str, int]:
    """Stage 8: merged files -> scores of units, row by row."""
    from virnucpro.engines.feeding import spread
    from virnucpro.pipeline.feature_files import DamagedFeaturesError, read_merged
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
            if len(merged) != units.sizes[n - 1]:
                rows = f"{len(merged)} rows where the split file has {units.sizes[n - 1]}"
                raise DamagedError(path, rows)
            store.commit(n - 1, scorer.classify(merged.vectors))
            scored += len(merged)
            bar.update(1)
    return {"scored": scored, "files": len(numbers)}
