"""Every path of a run, named once; docs/outputs.md says what the files hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from virnucpro.sequences.fasta import sample_name

CHECKPOINTS, LEDGER = ".checkpoints", "ledger"


def default_output_dir(input_files: Sequence[Path | str]) -> Path:
    """`{stem}_predictions` in the current directory; the first input gives the stem."""
    return Path(f"{sample_name(input_files[0])}_predictions")


class RunPaths:
    """Where everything of one run lies.

    Args:
        output_dir: the directory given with `-o`.
        stem: the first input's name without suffixes.
        chunk_nt: chunk length (nt), part of one file name.
    """

    def __init__(self, output_dir: Path, stem: str, chunk_nt: int) -> None:
        self.output_dir, self.run_json = output_dir, output_dir / "run.json"
        self.checkpoints = output_dir / CHECKPOINTS
        self.ledger = self.checkpoints / LEDGER
        self.calls, self.chunks = output_dir / "calls.tsv", output_dir / "chunks.tsv"
        # calls.tsv before thresholds: the model's own calls, no fdr; outlives the run
        self.contigs = self.checkpoints / "contigs.tsv"
        self.samples = output_dir / "samples"  # where a run has several
        self.failed_files = output_dir / "failed_files.txt"

        # in the original's format
        self.chunked = output_dir / f"{stem}_chunked{chunk_nt}.fa"  # never read back
        self.nucleotide = output_dir / f"{stem}_nucleotide.fa"
        self.protein = output_dir / f"{stem}_protein.faa"
        self.nucleotide_dir = output_dir / f"{stem}_nucleotide"
        self.protein_dir = output_dir / f"{stem}_protein"
        self.merged_dir = output_dir / f"{stem}_merged"
        self.predictions = self.merged_dir / "prediction_results.txt"
        self.consensus = self.merged_dir / "prediction_results_highestscore.csv"

        # shards and logs of the packed engine
        self.esm_v2, self.dnabert_v2 = output_dir / "esm_v2", output_dir / "dnabert_v2"

        # what depends on input and model alone, and a run with other thresholds starts from
        self.model_outputs = [self.predictions, self.consensus, self.chunks, self.contigs]

    def dna_features(self, number: int) -> Path:
        """DNA vectors of the `number`-th split file, counted from 1."""
        return self.nucleotide_dir / f"output_{number}_DNABERT_S.pt"

    def protein_features(self, number: int) -> Path:
        """Protein vectors of the `number`-th split file."""
        return self.protein_dir / f"output_{number}_ESM.pt"

    def merged(self, number: int) -> Path:
        """Merged vectors of the `number`-th split file."""
        return self.merged_dir / f"output_{number}_merged.pt"

    def split_of(self, slot: str, number: int) -> Path:
        """The `number`-th split file of a slot, `dna` or `protein`."""
        folder = self.nucleotide_dir if slot == "dna" else self.protein_dir
        return folder / f"output_{number}.fa"

    def features_of(self, slot: str, number: int) -> Path:
        """Vectors of the `number`-th split file of a slot."""
        return self.dna_features(number) if slot == "dna" else self.protein_features(number)
