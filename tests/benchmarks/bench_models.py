"""Models, sequences and figures of the benchmark suites."""

import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from checkpoints import (
    dnabert_config,
    dnabert_tensors,
    esm2_config,
    esm2_tensors,
    write_safetensors,
)
from staged_files import tiny_dna_encoder
from tiny_published import make_tiny_home, write_classifier

from virnucpro.core.errors import VirNucProError
from virnucpro.models.specs import DNABERT_S, ESM2_SIZES
from virnucpro.models.store import install_local, resolve_model

SENSE = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
SENSE = [codon for codon in SENSE if codon not in ("TAA", "TAG", "TGA")]
ON_GPU_WITHOUT_WEIGHTS = "esm2_t30_150M_UR50D"


def make_home(home: Path, real_size: bool) -> Path:
    """The user's own home if `500` is there, else random weights, of real or of tiny networks."""
    if not real_size:
        return make_tiny_home(home)
    if own := os.environ.get("VIRNUCPRO_MODEL_DIR"):
        with suppress(VirNucProError):
            resolve_model("500", None, Path(own))
            return Path(own)
    dna, protein = home.parent / "dna", home.parent / "protein"
    esm2 = ESM2_SIZES[ON_GPU_WITHOUT_WEIGHTS]
    write_safetensors(protein, esm2_tensors(esm2, seed=2), esm2_config(esm2))
    tiny_dna_encoder(dna)  # for its tokenizer of single bases
    write_safetensors(dna, dnabert_tensors(DNABERT_S, seed=1), dnabert_config(DNABERT_S))
    width = DNABERT_S.dim + esm2.dim
    classifier = write_classifier(home.parent / "500_model.pth", width=width, hidden=512)
    for source, name in ((dna, "DNABERT-S"), (protein, "esm2_t36_3B_UR50D"), (classifier, "500")):
        install_local(source, name, home)
    return home


def coding_contigs(count: int, codons: int = 166) -> list[str]:
    """Sequences whose first frame has no stop codon, so that each gives an ORF."""
    draw = np.random.default_rng(0)
    return ["".join(draw.choice(SENSE, codons)) + "AC" for _ in range(count)]


def proteins(count: int, mean: float = 49.0) -> list[str]:
    """Proteins of many lengths around `mean` (aa), as 150 nt reads give them."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(mean, mean / 5, count), 5, 3 * mean).astype(int)
    return ["".join(draw.choice(list("ACDEFGHIKLMNPQRSTVWY"), length)) for length in lengths]


def seconds_of(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_fasta(path: Path, sequences) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">s{i}\n{text}\n" for i, text in enumerate(sequences)))
    return path


class Figures:
    """Rows of one suite, and the names of those that missed their requirement."""

    def __init__(self, suite, rows):
        self.suite, self.rows, self.missed = suite, rows, []

    def note(self, name, value, unit="", better=None):
        self._add(name, value, unit, better, "", "measured", "")

    def at_least(self, name, value, limit, unit="", unless=""):
        """A figure that must not be below `limit`; `unless` says why it need not be so here."""
        self._judge(name, value, unit, "higher", f"at least {limit:g}", value >= limit, unless)

    def at_most(self, name, value, limit, unit="", unless=""):
        self._judge(name, value, unit, "lower", f"at most {limit:g}", value <= limit, unless)

    def failed(self, name, reason):
        self._add(name, None, "", None, "holds", "missed", reason)

    def _judge(self, name, value, unit, better, limit, reached, unless):
        verdict = "not applicable" if unless else "passed" if reached else "missed"
        self.missed += [name] if verdict == "missed" else []
        self._add(name, value, unit, better, f"{limit} {unit}".strip(), verdict, unless)

    def _add(self, name, value, unit, better, requirement, verdict, reason):
        value = None if value is None else float(f"{value:.6g}")
        row = {"suite": self.suite, "name": name, "value": value, "unit": unit, "better": better,
               "requirement": requirement, "verdict": verdict, "reason": reason}  # fmt: skip
        self.rows.append(row)
        print(f"{self.suite}: {name}: {value} {unit} [{verdict}] {requirement} {reason}")
