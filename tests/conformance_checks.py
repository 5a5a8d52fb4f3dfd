"""How a row of the conformance list is checked: each maker returns a function that asserts."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path

from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
PIPELINE, CLI = "virnucpro/pipeline", "virnucpro/cli"
MERGE, FEATURES = f"{PIPELINE}/parallel_merge.py", f"{PIPELINE}/features.py"
MERGE_MODULE = "virnucpro.pipeline.parallel_merge"
PREDICTION, PREDICT = f"{PIPELINE}/prediction.py", f"{CLI}/predict.py"
BENCHMARK, GUIDE = f"{CLI}/benchmark.py", "docs/MIGRATION_v2.md"


@functools.cache
def text_of(path):
    return (ROOT / path).read_text(encoding="utf-8")


@functools.cache
def tests_of(path):
    """Names of functions, `Class.function` of methods, and names of classes."""
    names = set()
    for node in ast.parse(text_of(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            names |= {method.name for method in methods}
            names |= {f"{node.name}.{method.name}" for method in methods}
    return names


@functools.cache
def help_of(command):
    return CliRunner().invoke(_cli(), [command, "--help"]).output


def _cli():
    from virnucpro.cli.main import cli

    return cli


def every(*checks):
    """All of several checks."""

    def check(logs):
        for one in checks:
            one(logs)

    return check


def lines(path, *patterns):
    """Each pattern is found within one line of a file, as grep finds it."""

    def check(logs):
        for pattern in patterns:
            assert re.search(pattern, text_of(path)), f"{path}: no line matches {pattern}"

    return check


def literal(path, *texts):
    return lines(path, *map(re.escape, texts))


def absent(path, pattern):
    def check(logs):
        assert not re.search(pattern, text_of(path)), f"{path} matches {pattern}"

    return check


def together(path, *texts):
    """All texts in a file, in this order, line ends between them or not."""
    return lines(path, "(?s)" + ".*?".join(map(re.escape, texts)))


def exists(*paths):
    def check(logs):
        for path in paths:
            assert (ROOT / path).is_file(), path

    return check


def names(module, *wanted):
    def check(logs):
        found = importlib.import_module(module)
        for name in wanted:
            assert hasattr(found, name), f"{module} has no {name}"

    return check


def parameters(target, *wanted, defaults=()):
    """A callable takes these parameters, in this order among themselves.

    Args:
        target: `module:name`.
        defaults: pairs of a parameter and its default.
    """
    module, name = target.split(":")

    def check(logs):
        found = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        assert [key for key in found if key in wanted] == list(wanted), list(found)
        for key, value in defaults:
            assert found[key].default == value

    return check


def tested(path, *wanted):
    """Named tests exist in a file."""

    def check(logs):
        missing = set(wanted) - tests_of(path)
        assert not missing, f"{path} lacks {missing}"

    return check


def helps(command, *patterns):
    """The help text of a command, its lines joined, matches each pattern."""

    def check(logs):
        shown = " ".join(help_of(command).split())
        for pattern in patterns:
            assert re.search(pattern, shown), f"{command} --help: {pattern}"

    return check


def logged(run, *texts):
    """A real run in this process logged these texts; see the fixture `logs` for the runs."""

    def check(logs):
        output = logs(run)
        for text in texts:
            assert text in output, f"the log of {run} lacks: {text}"

    return check
