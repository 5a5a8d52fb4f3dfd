"""Errors are types with fields; `cli.main` turns each into one message and one exit code."""

from os import PathLike
from pathlib import Path


class VirNucProError(Exception):
    """Anything a user can act on: what is wrong, where, and the remedy."""

    exit_code = 1


class UsageError(VirNucProError):
    """Options that do not fit together, or an output directory that is not ours."""

    exit_code = 2


class InputError(VirNucProError):
    """A file that cannot be read as sequences; names the file, the line and the remedy."""

    exit_code = 3

    def __init__(self, path: PathLike[str] | str, problem: str, line: int | None = None) -> None:
        super().__init__(path, problem, line)
        self.path, self.problem, self.line = path, problem, line

    def __str__(self) -> str:
        line = "" if self.line is None else f", line {self.line}"
        return f"{self.path}{line}: {self.problem}"


class ModelError(VirNucProError):
    """Weights that are missing, damaged, unsafe or not what they claim to be."""

    exit_code = 4


class DeviceError(VirNucProError):
    """A device that is not there, or has too little memory."""

    exit_code = 5


class OutputError(VirNucProError):
    """A result that could not be written: full disk, read-only directory, vanished scratch."""


class DamagedError(OutputError):
    """A finished piece of work whose file no longer holds what was committed."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        remedy = "run again with --force-resume, which recomputes what is damaged"
        return f"{self.path}: {self.problem}; {remedy}"


class ConfigError(UsageError):
    """A configuration file that cannot be read, or a key that does not exist."""


class WorkersFailedError(VirNucProError, RuntimeError):
    """Work of one encoder that no living worker could finish."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; like KeyboardInterrupt no ordinary handler may swallow it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number, self.exit_code = signal_number, 128 + signal_number

    def __str__(self) -> str:
        return "stopped by a signal"
