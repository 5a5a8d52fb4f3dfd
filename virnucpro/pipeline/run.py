"""One prediction under way: its inputs, its model, its directory, and what is done of it."""

import logging
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF
from typing import Any

from virnucpro import __version__
from virnucpro.core.checkpoint import Ledger
from virnucpro.core.device import usable_cpus, version_of
from virnucpro.core.errors import InputError, UsageError, VirNucProError
from virnucpro.core.files import digest_of, read_json, write_json
from virnucpro.core.log import ProgressReporter
from virnucpro.core.text import clipped, counted
from virnucpro.models.specs import ModelSpec
from virnucpro.models.store import resolve_model
from virnucpro.pipeline import inputs
from virnucpro.pipeline.input_pass import Rules
from virnucpro.pipeline.inputs import Source, shown_name
from virnucpro.pipeline.output_dir import RunPaths, check_free, remove_leftovers
from virnucpro.pipeline.settings import ModelChoice, PredictionSettings
from virnucpro.reports.explain import expected_false, fragment, sure
from virnucpro.reports.table_files import FASTA_NAMES, TABLE_NAMES
from virnucpro.reports.tables import SCHEMA
from virnucpro.sequences.fasta import sample_name
from virnucpro.sequences.orfs import OrfPolicy

logger = logging.getLogger("virnucpro.pipeline")

FORMAT = 2
PACKAGES = ("torch", "numpy", "tokenizers", "h5py")
INPUTS, CALLS, TABLES, REPORT = "inputs", "calls", "tables", "report"
RATES, ENOUGH_ORFS, ENOUGH_S = "rates.json", 1_000, 20.0
SHORT_NT = 250  # mean chunk of reads, whose ORFs are shorter and take less time
MOST_NOTED = 5  # samples in the log
# what a run that only makes other tables has to say of the scores it starts from
OF_SCORING = ("stages", "agreement", "engines", "devices", "gpu_bytes")

Described = Sequence[Mapping[str, Any]]  # see `describe_inputs`


@dataclass(slots=True, kw_only=True)
class Run:
    """One prediction under way; a key is the digest of all that decides what lies under it."""

    sources: tuple[Source, ...]  # standard input already spooled
    mates: int  # records in a row that are one fragment
    paths: RunPaths
    folders: list[Path]  # of the final tables: of all samples, and of each where there are several
    tables: list[Path]  # the final ones
    results: list[Path]  # what a run is made for, but for its pages
    model: ModelSpec
    settings: PredictionSettings
    per_unit: int  # ORFs of a unit of work, and the most that a killed run has to do again
    devices: tuple[str, ...]
    threads: int  # CPU threads and processes of the whole run
    key: str  # of scores, to the last digit
    calls_key: str  # of the model's calls: done on whatever kind of device they were made
    tables_key: str  # of the final tables
    ledger: Ledger  # what is done, and which files are ours
    reporter: ProgressReporter
    data: dict[str, Any]  # run.json: what ran, with what, and what came of it; see docs/outputs.md

    @property
    def rules(self) -> Rules:
        """What decides which ORFs the input gives; counts the records where that matters."""
        choice = self.settings.model
        is_sampled = inputs.sampler(self.sources, choice.sample_n, self.mates)
        return Rules(self.model.chunk_nt, self.model.orf_policy, choice.min_length, is_sampled)

    def claim(self, *files: Path) -> None:
        """Write down that these files are ours, before they are made; see `check_free`."""
        check_free(self.ledger, files)
        self.ledger.claim(*files)

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, int]]:
        """Time a stage; what the body puts in the yielded dict becomes its counts."""
        start, counts = time.monotonic(), dict[str, int]()
        yield counts
        seconds = round(time.monotonic() - start, 3)
        self.data["stages"][name] = {"seconds": seconds, **counts}

    def note_engines(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Record how each slot was embedded: layout, dtype and attention backend, and on what."""
        data = self.data
        for slot, one in stats.items():
            facts = [str(one.get(name, "?")) for name in ("layout", "dtype", "backend")]
            data.setdefault("engines", {})[slot] = " ".join(facts)
            data["gpu_bytes"] = max(data.get("gpu_bytes", 0), int(one.get("gpu_bytes", 0)))
            known = data.get("devices", [])
            data["devices"] = [*dict.fromkeys([*known, str(one.get("device"))])]

    def save(self) -> None:
        """Write run.json."""
        write_json(self.paths.run_json, self.data)


def choose_model(choice: ModelChoice) -> ModelSpec:
    """The model, under the user's chunk length and ORF policy; a ModelError if there is none."""
    model = resolve_model(choice.model_type, choice.model_path, choice.home)
    logger.info("Model: %s (%s), hash %s", model.name, choice.model_type, model.digest[:12])
    if choice.chunk_nt is not None:
        model = replace(model, chunk_nt=choice.chunk_nt)
    if choice.orf_policy is not None and choice.orf_policy != model.orf_policy.name:
        logger.warning(
            "--orf-policy %s: the model was trained with %s; scores are outside its training",
            choice.orf_policy, model.orf_policy.name,
        )  # fmt: skip
        model = replace(model, orf_policy=OrfPolicy(choice.orf_policy))
    return model


def prepare(
    input_files: Sequence[Path], output_dir: Path, model: ModelSpec, settings: PredictionSettings,
    command: Sequence[str] | None = None,
) -> Run:  # fmt: skip
    """Hash the inputs and open the run, in a directory that is held and has a run of no others."""
    asked, output, compute = settings.inputs, settings.output, settings.compute
    paths = RunPaths(output_dir, sample_name(input_files[0]), model.chunk_nt)
    ledger = Ledger(output_dir, paths.ledger, repair=output.repair)
    remove_leftovers(ledger)
    paths.ledger.mkdir(parents=True, exist_ok=True)
    spooled = inputs.spool(input_files, paths.checkpoints)
    described = inputs.describe_inputs(input_files, spooled)
    digests = [str(entry["sha256"]) for entry in described]
    sources = inputs.plan_sources(
        input_files, spooled, asked.paired, asked.reference, digests, asked.interleaved
    )
    entry = ledger.read(INPUTS, "")
    before = entry.facts["inputs"] if entry is not None else []
    try:
        if before:
            _refuse_others(output_dir, before, described, sources)
    except VirNucProError:
        for copy in spooled.values():
            copy.unlink(missing_ok=True)
        raise
    if before != described:
        ledger.discard(INPUTS)
        ledger.commit(INPUTS, "", facts={"inputs": described})

    samples = [source.sample for source in sources]
    calling = {**asdict(settings.calling.thresholds), "gzip_fasta": settings.calling.gzip_fasta}
    names = [sample_name(path) for path in input_files]
    read = (digests, names, samples, asked.paired, asked.interleaved)
    chosen = (model.digest, settings.model.min_length, settings.model.sample_n)
    numbers = (compute.dtype, compute.packing, compute.v1_attention)
    decides = (FORMAT, SCHEMA["chunks.tsv"], read, chosen, numbers)
    devices = compute.devices
    kind = devices[0].split(":")[0]  # their scores differ in the last digits
    # A large encoder on a CPU takes seconds for each ORF, and whole units are what survives a kill.
    by_model = 100 if kind == "cpu" and model.is_large else 10_000
    per_unit = compute.sequences_per_file or by_model
    several = sources if len(sources) > 1 else ()
    folders = [output_dir, *(paths.samples / one.folder for one in several)]
    made = (*TABLE_NAMES, *FASTA_NAMES[settings.calling.gzip_fasta])
    tables = [folder / name for folder in folders for name in made]
    versions = [(package, version_of(package)) for package in PACKAGES]
    about = {
        "tool": "virnucpro", "format": FORMAT, "version": __version__, "status": "running",
        "schema": SCHEMA, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command or sys.argv,
        "host": f"{platform.system()}-{platform.release()}-{platform.machine()}",
        "versions": {"python": platform.python_version(), **{p: v for p, v in versions if v}},
        "model": {"name": model.name, "digest": model.digest, "chunk_nt": model.chunk_nt,
                  "orf_policy": model.orf_policy.name, "orf_keep": model.orf_policy.keep},
        "parameters": asdict(settings), "inputs": described, "samples": samples,
        "calling": {"preset": settings.calling.preset, **calling},
        "sample_summary": [], "stages": {}, "outputs": {},
    }  # fmt: skip
    return Run(
        sources=sources, mates=sources[0].mates, paths=paths, folders=folders, tables=tables,
        results=[paths.run_json, *paths.model_outputs, *tables],
        model=model, settings=settings, per_unit=per_unit,
        devices=devices, threads=compute.threads or usable_cpus(),
        key=digest_of(decides, kind, per_unit),
        calls_key=digest_of(decides), tables_key=digest_of(decides, calling, SCHEMA),
        ledger=ledger, reporter=ProgressReporter(output.progress), data=about,
    )  # fmt: skip


def _refuse_others(
    output_dir: Path, before: Described, described: Described, sources: Sequence[Source]
) -> None:
    """See that a run may go on, or be made anew: of the same content, or of the same files."""
    known, found = (sorted(str(one["sha256"]) for one in each) for each in (before, described))
    if known == found:
        return
    old, new = ([str(one["path"]) for one in each] for each in (before, described))
    if old == new:
        pairs = zip(before, described, strict=True)
        changed = {str(b["path"]) for a, b in pairs if a["sha256"] != b["sha256"]}
        try:
            inputs.check_content([one for one in sources if changed.intersection(one.names)])
        except InputError as error:
            kept = f"{error.problem}; the run of what it held before is kept in {output_dir}"
            raise InputError(error.path, kept, error.line) from error
    places = [[one["place"] for one in each] for each in (before, described)]
    if None in places[1] or places[0] != places[1]:
        was, now = (clipped(", ".join(map(shown_name, each)), 1_000) for each in (old, new))
        held = f"{now} with other content" if old == new else f"{was}, not of {now}"
        remedy = "choose another --output-dir, or --force to start over"
        raise UsageError(f"{output_dir} holds a run of {held}; {remedy}")


def summary_lines(output_dir: Path, data: Mapping[str, Any]) -> list[str]:
    """What a run says at its end, given its run.json: the answer, what lacks and why, the files."""
    tables, scoring = (data["stages"].get(name, {}) for name in ("tables", "scoring"))
    width, unit = fragment(data)
    calls = ", ".join(
        f"{tables.get(f'call:{name}', 0) // width:,} {name}"
        for name in ("virus", "non-virus", "uncertain")
    )
    samples, false = data.get("sample_summary", []), ""
    if (share := expected_false(data)) is not None:
        false = f"; about {100 * share:.1f}% of the viral ones expected to be false"
    count = counted(tables.get("records", 0) // width, unit)
    lines = [f"{count}: {calls}{false}"]
    noted = [sample for sample in samples if sample.get("note")]
    lines += [f"{sample['sample']}: {sample['note']}" for sample in noted[:MOST_NOTED]]
    if len(noted) > MOST_NOTED:
        lines.append(f"and {len(noted) - MOST_NOTED:,} samples more, see run.json")
    if noted and data.get("advice"):
        lines.append(f"To keep what is sure{sure(data)}: {data['advice']}")
    if hosts := tables.get("with_regions"):
        where = output_dir / "regions.tsv"
        lines.append(f"With a viral region, though not called viral: {hosts:,} (see {where})")
    counts = {n.removeprefix("status:"): k for n, k in scoring.items() if n.startswith("status:")}
    counts.pop("called", None)
    if counts:
        reasons = ", ".join(f"{count:,} {status}" for status, count in counts.items())
        lines.append(f"Not scored: {sum(counts.values()):,} ({reasons})")
    if data.get("status") == "partial":
        lines.append(f"Incomplete: see {output_dir / 'failed_files.txt'}; --resume tries again")
    found = filter(Path.exists, (output_dir / "report.html", output_dir / "calls.tsv"))
    names = ", ".join(map(str, found))
    seconds = timedelta(seconds=int(data.get("seconds", 0.0)))
    return [*lines, f"Done in {seconds}: {names}"]


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a model was on a set of devices; bytes are the most that a process held."""

    orfs_per_s: float
    start_s: float  # until the first ORFs were scored
    memory: int
    gpu_memory: int = 0


class Pace:
    """Counts the ORFs of a run under way; starting and loading are told from scoring."""

    def __init__(self) -> None:
        self._told = [(time.monotonic(), 0)]  # when, and ORFs by then: start, first, last

    def tell(self, orfs: int) -> None:
        """Count ORFs that have just been scored."""
        self._told[2:] = [(time.monotonic(), self._told[-1][1] + orfs)]

    def rate(self, is_pilot: bool = False, gpu_memory: int = 0) -> Rate | None:
        """The rate so far; None before there were enough to tell, but of a pilot."""
        (start, none), (first, early), (last, orfs) = [*self._told, *self._told[-1:] * 2][:3]
        has_enough = orfs - early >= ENOUGH_ORFS or last - first >= ENOUGH_S
        if not orfs or not (has_enough or is_pilot):
            return None
        # all at once: loading counts as scoring
        since, before = (first, early) if orfs > early else (start, none)
        held = (resource.getrusage(who).ru_maxrss for who in (RUSAGE_SELF, RUSAGE_CHILDREN))
        memory = max(held) * (1 if sys.platform == "darwin" else 1024)
        rate = (orfs - before) / max(1e-6, last - since)
        return Rate(rate, first - start, memory, gpu_memory)


def rate_keys(
    model: ModelSpec, devices: Sequence[str], threads: int, chunk_nt: float
) -> tuple[str, str]:
    """Under what a rate is kept, and what stands in for it: that of other lengths."""
    kinds = ("short", "long") if chunk_nt < SHORT_NT else ("long", "short")
    where = f"{model.digest[:24]} {','.join(devices)} {threads}"
    return f"{where} {kinds[0]}", f"{where} {kinds[1]}"


def remember(home: Path, key: str, rate: Rate) -> None:
    """Keep a rate beside the models, for `estimate`; a folder that cannot be written keeps none."""
    with suppress(OSError, VirNucProError):
        home.mkdir(parents=True, exist_ok=True)
        write_json(home / RATES, {**read_json(home / RATES), key: asdict(rate)})


def recall(home: Path, keys: Sequence[str]) -> Rate | None:
    """The rate kept under the first of these keys that has one."""
    known = read_json(home / RATES)
    for key in keys:
        with suppress(KeyError, TypeError):
            return Rate(**known[key])
    return None
