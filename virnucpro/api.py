"""VirNucPro from Python: the same run as the command's, with a typed result."""

import importlib
import inspect
import os
import shutil
import sys
import tempfile
import weakref
import webbrowser
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from virnucpro.cli.options import build_settings
from virnucpro.core.config import Config
from virnucpro.core.device import EXTRA_OF
from virnucpro.core.errors import UsageError
from virnucpro.core.records import Embeddings, Record
from virnucpro.core.text import shown
from virnucpro.reports import tables
from virnucpro.reports.tables import CallRow, ChunkRow
from virnucpro.sequences.fasta import write_fasta

if TYPE_CHECKING:
    from virnucpro.pipeline.settings import PredictionSettings
    from virnucpro.pipeline.worker_loop import Executor
    from virnucpro.scores.thresholds import PresetName

Inputs = str | Path | Sequence[str | Path] | Mapping[str, str] | Sequence[Record]
Precision = Literal["auto", "float32", "float16", "bfloat16", "fp8"]
Sequences = str | Path | Mapping[str, str] | Iterable[str | Record]
OF_SESSION = ("model", "device", "threads")  # arguments of `predict` that a session holds


@dataclass(frozen=True, eq=False)
class PredictionResult:
    """What a prediction found. Iterating reads calls.tsv row by row."""

    output_dir: Path  # of all files; a temporary one goes with this object and its iterators
    exit_code: int  # 0 done, 6 done but for some records, whose status is `failed`
    counts: dict[str, int]  # records, regions, and records by `call:{name}`
    # For each sample its records, viral records, estimated share of viruses, and the highest
    # false discovery rate among the viral ones.
    samples: list[dict[str, Any]] = field(repr=False)

    def __iter__(self) -> Iterator[CallRow]:
        """One row for every input record, in input order. Streams."""
        yield from CallRow.read(self.calls)  # holds this object, and so its directory

    def __len__(self) -> int:
        """Input records."""
        return self.counts.get("records", 0)

    @property
    def rows(self) -> list[CallRow]:
        """All rows at once."""
        return list(self)

    @property
    def calls(self) -> Path:
        """The file calls.tsv."""
        return self.output_dir / "calls.tsv"

    @property
    def viral_fasta(self) -> Path:
        """The records called viral."""
        packed = self.output_dir / "viral.fasta.gz"
        return packed if packed.exists() else self.output_dir / "viral.fasta"

    def chunks(self) -> Iterator[ChunkRow]:
        """The score along each record, chunk by chunk. Streams."""
        yield from ChunkRow.read(self.output_dir / "chunks.tsv")

    def to_dicts(self) -> list[dict[str, Any]]:
        """Rows as dictionaries with the columns of calls.tsv; what is absent is None."""
        return [dict(zip(tables.CALL_COLUMNS, row.values(), strict=True)) for row in self]

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame` with the columns of calls.tsv."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            problem = f"to_pandas() needs pandas: pip install 'virnucpro[{EXTRA_OF['pandas']}]'"
            raise ImportError(problem) from error
        return pandas.DataFrame(self.to_dicts(), columns=list(tables.CALL_COLUMNS))

    def report(self) -> "PredictionResult":
        """Write report.html and show it: where a notebook's cell ends so, else in a web browser."""
        from virnucpro.reports.html import write_report

        page = write_report(self.output_dir)
        if "ipykernel" not in sys.modules:
            webbrowser.open(page.resolve().as_uri())
        return self

    def _repr_html_(self) -> str | None:
        if not (page := self.output_dir / "report.html").exists():
            return None
        text = escape(page.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{text}" width="100%" height="800" frameborder="0"></iframe>'


def predict(  # noqa: PLR0913 - the public call; every option is one of the command's
    inputs: Inputs,
    *,
    model: str | Path = "mini",
    output_dir: str | Path | None = None,
    device: str | None = None,
    threads: int | None = None,
    precision: Precision | None = None,
    expected_length: int | None = None,
    orf_policy: Literal["open-frame", "longest"] | None = None,
    min_length: int | None = None,
    sample_n: int | None = None,
    paired: bool = False,
    interleaved: bool = False,
    reference: str | Path | None = None,
    preset: "PresetName | None" = None,
    min_score: float | None = None,
    max_fdr: float | None = None,
    keep_intermediate: bool = False,
    resume: bool = False,
    force: bool = False,
    report: bool = False,
) -> PredictionResult:
    """Call every record of `inputs` viral or not, as `virnucpro predict` does.

    `inputs` are a file or several (FASTA or FASTQ, plain or packed, BAM, CRAM, SAM), or sequences:
    a mapping of ids to letters, or `Record`s. `model` is `mini`, `300`, `500`, or the directory or
    classifier file of a custom one; `device` is `auto`, `cpu`, `cuda`, `cuda:N` or `N`. Results
    stay in `output_dir`, else in a temporary directory that goes with the result. The others are
    options of the command under their names, lengths in nt; None means the setting, or the model's
    own. A `VirNucProError` tells of what a user can act on: bad input, no such model, a full disk.

    >>> result = predict("contigs.fa", model="mini")  # doctest: +SKIP
    >>> [row.seq_id for row in result if row.call == "virus"]  # doctest: +SKIP
    ['contig_7']
    """
    options = {name: given for name, given in locals().items() if name not in OF_SESSION}
    with Session(model, device=device, threads=threads) as session:
        return session.predict(**options)


class Session:
    """A model that stays loaded from one prediction to the next. A context manager.

    Takes `model`, `device` and `threads` as `predict` does.

    >>> with Session("mini") as session:  # doctest: +SKIP
    ...     results = [session.predict(path) for path in ("a.fa", "b.fa")]
    """

    def __init__(
        self, model: str | Path = "mini", *, device: str | None = None, threads: int | None = None
    ) -> None:
        self._model, self._device, self._threads = model, device, threads
        self._executor: Executor | None = None

    def predict(
        self, inputs: Inputs, *, output_dir: str | Path | None = None, **options: Any
    ) -> PredictionResult:
        """Call every record of `inputs`; arguments and errors are those of `virnucpro.predict`."""
        from virnucpro.pipeline import prediction, stream
        from virnucpro.reports.explain import read_run

        if unknown := options.keys() - inspect.signature(predict).parameters.keys():
            raise TypeError(f"predict() got an unexpected keyword argument {min(unknown)!r}")
        if not inputs:
            raise UsageError("no input files, and no sequences")
        if reference := options.get("reference"):
            options["reference"] = Path(reference)
        options["no_report"] = not options.get("report")
        flags = {"device": self._device, "threads": self._threads, **options}
        settings = _settings(self._model, **flags)
        if self._executor is None:
            self._executor = stream.make_executor(settings.compute)
        out = Path(output_dir or tempfile.mkdtemp(prefix="virnucpro-"))
        with ExitStack() as stack, ExitStack() as of_result:
            if not output_dir:
                of_result.callback(shutil.rmtree, out, ignore_errors=True)
            files = _as_files(inputs, stack)
            code = prediction.run_prediction(files, out, settings, executor=self._executor)
            run = read_run(out)
            counts = {k: v for k, v in run["stages"]["tables"].items() if k != "seconds"}
            result = PredictionResult(out, code, counts, run["sample_summary"])
            weakref.finalize(result, of_result.pop_all().close)
        return result

    def close(self) -> None:
        """Give the model back; safe to call twice."""
        if self._executor is not None:
            self._executor.close()
            self._executor = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def embed(
    sequences: Sequences,
    *,
    model: str | Path = "mini",
    device: str = "auto",
    precision: Precision | None = None,
    orf_policy: Literal["open-frame", "longest"] | None = None,
    per: Literal["orf", "record"] = "orf",
) -> Embeddings:
    """The vectors that a model's classifier sees: DNA columns, then protein columns.

    `sequences` are a FASTA or FASTQ file, sequences by id, or sequences alone, which are called
    `sequence_1` and on; all are held in memory. By default there is a vector for every ORF, called
    `{id}_chunk_{k}{frame}`; `per="record"` gives their mean for every record that has any. The
    other arguments are those of `predict`. Vectors have shape (n, d), float32, in input order.

    Raises:
        VirNucProError: what a user can act on.

    >>> embed({"a": "ATGGCT" * 50}).vectors.shape  # doctest: +SKIP
    (1, 1536)
    """
    if per not in ("orf", "record"):
        raise UsageError(f"per must be orf or record, got {shown(per)}")
    from virnucpro.engines.base import EngineOptions
    from virnucpro.pipeline.run import choose_model
    from virnucpro.pipeline.stream import DirectScorer

    settings = _settings(model, device=device, orf_policy=orf_policy, precision=precision)
    options = EngineOptions(dtype=settings.compute.dtype) if precision else None
    scorer = DirectScorer(choose_model(settings.model), device, options)
    ids: list[str] = []
    parts = [np.empty((0, scorer.model.dim), dtype=np.float32)]
    for shard, vectors in scorer.vectors(_records(sequences)):
        if per == "orf":
            ids += shard.orf_ids()
            parts.append(vectors)
            continue
        record_of = shard.chunks["record"][shard.orfs["chunk"]]
        for record in np.unique(record_of).tolist():
            ids.append(shard.records[record].seq_id)
            parts.append(vectors[record_of == record].mean(axis=0, dtype=np.float32)[None, :])
    return Embeddings(tuple(ids), np.concatenate(parts))


def _settings(model: str | Path, **flags: Any) -> "PredictionSettings":
    known = str(model) in ("mini", "300", "500")
    named = {"model_type": str(model)} if known else {"model_path": Path(model)}
    return build_settings({**flags, **named, "no_progress": True}, Config.load(None, os.environ))


def _as_files(inputs: Inputs, stack: ExitStack) -> list[Path]:
    """The files of inputs; sequences go into one that lies there until the stack is left."""
    if isinstance(inputs, str | Path):
        return [Path(inputs)]
    if not isinstance(inputs, Mapping) and not any(isinstance(one, Record) for one in inputs):
        return [Path(path) for path in cast("Sequence[str | Path]", inputs)]
    file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="virnucpro-"))) / "input.fa"
    with file.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as handle:
        for record in _records(cast("Sequences", inputs)):
            if len(record.seq_id.split()) != 1:
                raise UsageError(f"an id is one word, got {shown(record.seq_id)}")
            letters = "".join(record.sequence.split())
            write_fasta(handle, [(record.header_with(record.seq_id).strip(), letters)])
    return [file]


def _records(sequences: Sequences) -> Iterator[Record]:
    if isinstance(sequences, str | Path):
        from virnucpro.sequences.fasta import read_records

        yield from read_records([sequences])
        return
    named = sequences.items() if isinstance(sequences, Mapping) else enumerate(sequences, start=1)
    for name, sequence in named:
        seq_id = name if isinstance(name, str) else f"sequence_{name}"
        yield sequence if isinstance(sequence, Record) else Record(seq_id, seq_id, sequence)
