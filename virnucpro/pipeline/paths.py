"""Every path of a run, named once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from virnucpro.sequences.fasta import sample_name

CHECKPOINTS, LEDGER = ".checkpoints", "ledger"


def default_output_dir(input_files: Sequence[Path | str]) -> Path:
    """`{stem}_predictions` in the current directory; the first input gives the stem."""
    return Path(f"{sample_name(input_files[0])}_predictions")


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Where everything of one run lies.

    Attributes:
        output_dir: the directory given with `-o`.
        stem: the first input's name without suffixes.
        chunk_nt: chunk length (nt), part of one file name.
    """

    output_dir: Path
    stem: str
    chunk_nt: int

    @property
    def run_json(self) -> Path:
        """Versions, parameters, counts, seconds, and the list of files that are ours."""
        return self.output_dir / "run.json"

    @property
    def checkpoints(self) -> Path:
        """The ledger and the internal tables."""
        return self.output_dir / CHECKPOINTS

    @property
    def ledger(self) -> Path:
        """One small file for each finished unit of work."""
        return self.checkpoints / LEDGER

    @property
    def contigs(self) -> Path:
        """calls.tsv before thresholds: the model's own calls, no fdr. Outlives the run."""
        return self.checkpoints / "contigs.tsv"

    @property
    def chunked(self) -> Path:
        """The chunks, letters as given, wrapped at 60; for people, never read back."""
        return self.output_dir / f"{self.stem}_chunked{self.chunk_nt}.fa"

    @property
    def nucleotide(self) -> Path:
        """DNA of every ORF, one line each."""
        return self.output_dir / f"{self.stem}_nucleotide.fa"

    @property
    def protein(self) -> Path:
        """Protein of every ORF, one line each."""
        return self.output_dir / f"{self.stem}_protein.faa"

    @property
    def nucleotide_dir(self) -> Path:
        """Split DNA files and their features."""
        return self.output_dir / f"{self.stem}_nucleotide"

    @property
    def protein_dir(self) -> Path:
        """Split protein files and their features."""
        return self.output_dir / f"{self.stem}_protein"

    @property
    def merged_dir(self) -> Path:
        """Merged features and the two result files in the original's format."""
        return self.output_dir / f"{self.stem}_merged"

    @property
    def esm_v2(self) -> Path:
        """Shards and logs of the packed protein stage."""
        return self.output_dir / "esm_v2"

    @property
    def dnabert_v2(self) -> Path:
        """Shards and logs of the packed DNA stage."""
        return self.output_dir / "dnabert_v2"

    @property
    def failed_files(self) -> Path:
        """Split files that could not be embedded or merged, each with its reason."""
        return self.output_dir / "failed_files.txt"

    @property
    def predictions(self) -> Path:
        """One row per ORF, in the original's format."""
        return self.merged_dir / "prediction_results.txt"

    @property
    def consensus(self) -> Path:
        """One row per chunk, in the original's format."""
        return self.merged_dir / "prediction_results_highestscore.csv"

    @property
    def calls(self) -> Path:
        """One row per input record."""
        return self.output_dir / "calls.tsv"

    @property
    def chunks(self) -> Path:
        """One row per chunk of every record that was cut into chunks."""
        return self.output_dir / "chunks.tsv"

    @property
    def model_outputs(self) -> list[Path]:
        """What depends on input and model alone, and a run with other thresholds starts from."""
        merged = self.merged_dir
        names = ("prediction_results.txt", "prediction_results_highestscore.csv")
        return [*(merged / name for name in names), self.chunks, self.contigs]

    @property
    def samples(self) -> Path:
        """The final tables of each sample, one folder each, where a run has several."""
        return self.output_dir / "samples"

    def split(self, folder: Path, number: int) -> Path:
        """The `number`-th split file in `folder`, counted from 1."""
        return folder / f"output_{number}.fa"

    def dna_features(self, number: int) -> Path:
        """DNA vectors of the `number`-th split file."""
        return self.nucleotide_dir / f"output_{number}_DNABERT_S.pt"

    def protein_features(self, number: int) -> Path:
        """Protein vectors of the `number`-th split file."""
        return self.protein_dir / f"output_{number}_ESM.pt"

    def split_of(self, slot: str, number: int) -> Path:
        """The `number`-th split file of a slot, `dna` or `protein`."""
        return self.split(self.nucleotide_dir if slot == "dna" else self.protein_dir, number)

    def features_of(self, slot: str, number: int) -> Path:
        """Vectors of the `number`-th split file of a slot."""
        return self.dna_features(number) if slot == "dna" else self.protein_features(number)

    def merged(self, number: int) -> Path:
        """Merged vectors of the `number`-th split file."""
        return self.merged_dir / f"output_{number}_merged.pt"
