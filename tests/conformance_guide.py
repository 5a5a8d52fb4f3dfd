"""Rows 004 of the conformance list: the benchmark command and the migration guide."""

from __future__ import annotations

from unittest.mock import patch

from click.testing import CliRunner
from conformance_behaviour import nothing_finished
from conformance_checks import (
    BENCHMARK,
    GUIDE,
    every,
    exists,
    helps,
    lines,
    literal,
    names,
    tested,
    text_of,
)
from conformance_truth import (
    default_of_readers,
    first_fit_decreasing,
    logged_as_said,
    no_mixing,
    shards_without_resume,
    threshold_of_two_gpus,
    thresholds_reached,
    true_figures,
    true_options,
    true_tokens,
    work_of_a_lost_rank,
)

from virnucpro.cli.main import cli

SIGNALS = "tests/reliability/test_signals.py"
COMMAND, V2 = "tests/unit/cli/test_cli_benchmark.py", "tests/benchmarks/test_v2.py"
NEW_SUITES = ("v2-validation", "v2-scaling", "v2-throughput", "v1-comparison")
ALL_SUITES = ("scaling", "throughput", "memory", "equivalence", *NEW_SUITES, "all")


def says(*texts):
    return literal(GUIDE, *texts)


def suite(name, class_name):
    return every(lines(BENCHMARK, rf'"{name}": \("-k", "{class_name}"\)'), tested(V2, class_name))


def table_of_stages(logs):
    section = text_of(GUIDE).split("## Hybrid Architecture (v2.0)")[1].split("###")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == [
        "Stage", "v1.0", "v2.0 (current)", "Future (v2.1)",
    ]  # fmt: skip
    words = [
        "Chunking", "Translation", "Splitting", "DNABERT-S", "ESM-2", "Merging", "Prediction",
        "Consensus",
    ]  # fmt: skip
    assert len(rows[2:]) == len(words)
    assert all(word in row for word, row in zip(words, rows[2:], strict=True))


def enough_lines(logs):
    assert len([line for line in text_of(GUIDE).splitlines() if line.strip()]) >= 100


def prints(text):
    """The suites that compare versions print a text before they start; no other suite does."""

    def check(logs):
        for suite, is_told in (("v1-comparison", True), ("all", True), ("memory", False)):
            words = ["benchmark", "--suite", suite, "-o", str(logs.root / "reports")]
            with patch("virnucpro.cli.benchmark._run", return_value=5) as started:
                printed = CliRunner().invoke(cli, words).output
            started.assert_called_once()
            assert (text in printed.splitlines()) == is_told

    return check


NAMES = helps("benchmark", *NEW_SUITES)
ELEMENTS = says(
    "hybrid", "### Why DNABERT-S Stays v1.0", "v2.1", "--v1-fallback", "### Deprecated Options",
    "fails fast", "## Environment Variables", "## Deprecation Timeline", "## Troubleshooting",
)  # fmt: skip
ROWS = {
    "004-01": suite("v2-validation", "TestProductionValidation"),
    "004-02": suite("v1-comparison", "TestV1Comparison"),
    "004-03": says("ESM-2 goes through the packed v2.0 engine", "DNABERT-S stays on the"),
    "004-04": says("--parallel --v1-fallback -o out"),
    "004-05": says("| `--esm-batch-size` |", "| `--dnabert-batch-size` |"),
    "004-06": says("### Why DNABERT-S Stays v1.0", "planned to become the default in v2.1"),
    "004-07": literal(BENCHMARK, "v2-validation"),
    "004-08": every(exists(GUIDE), enough_lines),
    "004-09": lines(BENCHMARK, r"pytest.*tests/benchmarks"),
    "004-10": helps("benchmark", r"\[" + r"\|".join(ALL_SUITES) + r"\]"),
    "004-11": helps(
        "benchmark", r"production workload \(PERF\)", r"2-GPU scaling .* 1\.9x",
        r"DataLoader \+ packing sweep", "conditional v1/v2 comparison",
    ),
    "004-12": helps(
        "benchmark", "benchmark --suite v2-validation",
        "benchmark --suite v1-comparison --data-size medium",
    ),
    "004-13": suite("v2-validation", "TestProductionValidation"),
    "004-14": suite("v2-scaling", "TestV2Scaling"),
    "004-15": suite("v2-throughput", "TestParameterTuning"),
    "004-16": suite("v1-comparison", "TestV1Comparison"),
    "004-17": every(
        names("virnucpro.cli.benchmark", "_build_pytest_command"),
        tested(COMMAND, "test_suite_selects_its_tests"),
    ),
    "004-18": prints("Note: v1.0 comparison requires 'v1.0' git tag in repository"),
    "004-19": prints("Tests will skip gracefully if v1.0 tag is unavailable"),
    "004-20": every(
        names("virnucpro.cli.benchmark", "_display_summary"),
        tested(COMMAND, "test_summary_takes_reports_that_lack_parts"),
    ),
    "004-21": every(
        lines(BENCHMARK, *(rf'"{name}": \("-m", "{name}"\)' for name in ALL_SUITES[:4])),
        tested(COMMAND, "test_suite_all_takes_what_the_machine_can_run"),
    ),
    "004-22": NAMES,
    "004-23": lines(GUIDE, r"\A# Migration Guide: v1\.0 to v2\.0\n"),
    "004-24": says(
        "one process per GPU", "async DataLoader", "4-5x the throughput", "packed batches",
        "variable-length flash attention", "FP16", "default with `--parallel`", "--v1-fallback",
    ),
    "004-25": every(says("## Hybrid Architecture (v2.0)"), table_of_stages),
    "004-26": says("**Performance.**", "**Validation.**", "**Risk.**", "45+ hours"),
    "004-27": lines(
        GUIDE, "## What Changed", r"\| Process model \|", r"N x 11 GB .* 1 x 6 GB",
        r"\| Batching \|", r"\| Precision \| FP32, BF16.* FP16", r"\| Attention \|",
        r"\| Checkpointing \|", r"\| Output format \|",
    ),
    "004-28": says("### CLI Changes", "No breaking change", "| `--v1-fallback` |"),
    "004-29": lines(GUIDE, r"`--esm-batch-size`.*ignored"),
    "004-30": lines(GUIDE, r"`--dnabert-batch-size`.*still used"),
    "004-31": every(
        lines(
            GUIDE,
            r"`--dataloader-workers`.*used; default 0 beside a CPU; "
            r"beside a GPU 1 for ESM-2, 2 for DNABERT-S",
        ),
        default_of_readers,
    ),
    "004-32": lines(GUIDE, r"`--persistent-models`.*no effect on ESM-2"),
    "004-33": every(
        says(
            "First-fit-decreasing packing", "Attention without cross-sequence mixing",
            "Sequence-level checkpoints", "SIGTERM", "Elastic redistribution",
        ),
        first_fit_decreasing,
        no_mixing,
        shards_without_resume,
        tested(
            SIGNALS,
            "test_one_process_stops_and_goes_on",
            "test_worker_processes_end_with_the_run",
        ),
        work_of_a_lost_rank,
    ),
    "004-34": says("-m 500 --parallel -o out", "--parallel --v1-fallback -o out"),
    "004-35": every(
        says(
            "Architecture: v2.0 hybrid\n"
            "  ESM-2 embedding: v2.0 (async DataLoader + sequence packing)\n"
            "  DNABERT-S embedding: v1.0 (fast enough, v2.0 planned for v2.1)",
            "Architecture: v1.0 (--v1-fallback, all stages use legacy multi-worker)",
        ),
        logged_as_said,
    ),
    "004-36": says(*(f"virnucpro benchmark --suite {name}" for name in NEW_SUITES)),
    "004-37": lines(
        GUIDE, r"`VIRNUCPRO_DISABLE_FP16` \| unset \|.*FP32",
        r"`VIRNUCPRO_DISABLE_PACKING` \| unset \|",
    ),
    "004-38": lines(
        GUIDE, "## Deprecation Timeline", r"v2\.0 .*available", r"v2\.1 .*warns", r"v3\.0 .*removed"
    ),
    "004-39": every(
        says("fails fast", "RuntimeError", "failed_files.txt", "every N-th sequence"),
        nothing_finished,
    ),
    "004-40": every(
        says("## Troubleshooting", "VIRNUCPRO_DISABLE_PACKING=1", "VIRNUCPRO_DISABLE_FP16=1"),
        lines(GUIDE, r"\| out of memory \|.*budget follows from free memory"),
    ),
    "004-41": every(true_options, true_tokens, true_figures, logged_as_said),
    "004-42": enough_lines,
    "004-43": lines(GUIDE, r"v1-fallback|hybrid|DNABERT-S.*v1.0|v2.1"),
    "004-44": lines(GUIDE, r"DNABERT-S embedding.*v1.0"),
    "004-45": lines(GUIDE, "deprecated"),
    "004-46": lines(GUIDE, "hybrid", "v1-fallback", r"DNABERT-S.*v1.0", r"v2.1"),
    "004-47": NAMES,
    "004-48": ELEMENTS,
    "004-49": tested(COMMAND, "test_suite_selects_its_tests"),
    "004-50": exists("virnucpro/cli/main.py"),
    "004-51": every(says("4-5x"), thresholds_reached, threshold_of_two_gpus),
}  # fmt: skip
