"""The `virnucpro` command: options of every run, and where an error becomes an exit code."""

import errno
import importlib
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, cast

import click

from virnucpro import __version__
from virnucpro.cli.streams import LostOutputError, take_streams
from virnucpro.core.device import EXTRA_OF, usable_cpus, visible_cpus
from virnucpro.core.errors import Interrupted, UsageError, VirNucProError
from virnucpro.core.text import clipped

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOP_WITHIN_S = 4.0
LONGEST_MESSAGE = 500  # of those that click makes, which hold what was given as it is

# name: (module, summary). Modules are imported when a command runs: `--help` stays fast.
COMMANDS = {
    "predict": ("predict", "Call each record of a FASTA or FASTQ viral or not."),
    "plan": ("predict", "Prepare a prediction for workers on many hosts."),
    "worker": ("predict", "Score units of a planned prediction; start as many as you like."),
    "finish": ("predict", "Make the tables of a planned prediction."),
    "status": ("predict", "Show progress of a planned prediction, and who holds what."),
    "models": ("models", "List, fetch, import and verify models."),
    "estimate": ("info", "Say what a prediction will cost before it starts."),
    "doctor": ("info", "Check install, devices, weights and write speed."),
    "extract": ("info", "Write the records of a call, out of the files they came from."),
    "report": ("info", "Rebuild report.html of a finished run."),
    "train": ("train", "Train a model on labelled FASTA."),
    "evaluate": ("train", "Measure a model on labelled FASTA."),
    "benchmark": ("benchmark", "Run the benchmark suites of a source checkout."),
    "profile": ("info", "Find the best token budget on this machine."),
    "config": ("info", "Show the settings in force and where they come from."),
    "utils": ("info", "List devices, validate files and checkpoints."),
    "citation": ("info", "How to cite."),
}
AFTER_A_STOP = {
    "predict": "; finished work is kept, --resume goes on with it",
    "train": "; what was saved is kept, the same command goes on with it",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"virnucpro.cli.{COMMANDS[cmd_name][0]}")
        return cast("click.Command", getattr(module, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; a word that is none is an error with the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:  # click itself suggests one from 8.4 on
            from virnucpro.core.config import nearest

            near = nearest(args[0], COMMANDS)
            raise click.UsageError(f"{error.message} Did you mean '{near}'?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; turn what a user can act on into one message and an exit code."""
        try:
            return super().invoke(ctx)
        except VirNucProError as error:
            click.echo(f"virnucpro: error: {error}", err=True)
            sys.exit(error.exit_code)
        except click.UsageError as error:
            if len(message := error.format_message()) <= LONGEST_MESSAGE:
                raise
            raise click.UsageError(clipped(message, LONGEST_MESSAGE), error.ctx) from error
        except Interrupted as stop:
            click.echo(_words(stop, ctx), err=True)
            sys.exit(stop.exit_code)
        except (OSError, ModuleNotFoundError) as error:
            if isinstance(error, OSError):
                if error.errno != errno.ENAMETOOLONG:
                    raise
                problem = f"{clipped(error.filename)}: {error.strerror}"
            elif extra := EXTRA_OF.get((error.name or "").split(".")[0]):
                problem = f"this needs {error.name}: pip install 'virnucpro[{extra}]'"
            else:
                raise
            click.echo(f"virnucpro: error: {problem}", err=True)
            sys.exit(UsageError.exit_code)
        except MemoryError:
            click.echo("virnucpro: error: out of memory; use fewer threads", err=True)
            sys.exit(5)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, prog_name="VirNucPro")
@click.option("--verbose", "-v", is_flag=True, help="Log DEBUG lines too.")
@click.option("--quiet", "-q", is_flag=True, help="Be silent but for errors.")
@click.option("--log-file", "-l", type=click.Path(dir_okay=False, path_type=Path),
              help="Also log to this file, DEBUG too.")  # fmt: skip
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of log lines.")
@click.option("--config", "-c", "config_file",
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="YAML settings; see `virnucpro utils generate-config`.")  # fmt: skip
@click.pass_context
def cli(
    ctx: click.Context, verbose: bool, quiet: bool, log_file: Path | None,
    log_format: str | None, config_file: Path | None,
) -> None:  # fmt: skip
    """VirNucPro tells viral from non-viral DNA in short sequences: reads and contigs.

    Exit codes: 0 done, 1 failure, 2 usage, 3 bad input, 4 model missing, 5 device or memory,
    6 done in part, 130 interrupted, 143 terminated.
    """
    from virnucpro.core.config import Config, unknown_variables  # not for --version and --help
    from virnucpro.core.log import setup_logging

    config = Config.load(config_file, os.environ)
    log: dict[str, Any] = {
        "verbose": verbose, "quiet": quiet, "log_file": log_file or config.get("logging.file"),
        "style": log_format or config.get("logging.format"),
        "to_stderr": ctx.invoked_subcommand == "extract",  # records go to standard output
    }  # fmt: skip
    ctx.ensure_object(dict).update(config=config, config_file=config_file, quiet=quiet, log=log)
    logger = setup_logging(**log)
    for name, near in unknown_variables(os.environ):
        logger.warning("%s sets nothing; did you mean %s?", clipped(name), near)


def _words(stop: Interrupted, ctx: click.Context | None) -> str:
    command = ctx.find_root().invoked_subcommand if ctx else None
    return f"virnucpro: {stop}{AFTER_A_STOP.get(command or '', '')}"


def _terminate(number: int, frame: FrameType | None) -> None:
    """Stop at the next safe place; in any case within seconds; at the second signal at once."""
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    stop = Interrupted(number)

    def stop_now() -> None:  # files are whole or not there anyway
        with suppress(OSError):
            os.write(2, f"{words}\n".encode())
        os._exit(stop.exit_code)

    words = _words(stop, click.get_current_context(silent=True))
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            stop_now()  # others' code, half imported, makes a traceback of an exception
        frame = frame.f_back
    deadline = threading.Timer(STOP_WITHIN_S, stop_now)
    deadline.daemon = True
    deadline.start()
    raise stop


def main() -> None:
    """Entry point of the console script."""
    # Waiting threads that spin halve the speed on a shared machine; torch's OpenMP reads this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if (cpus := usable_cpus()) < visible_cpus():  # libraries know nothing of quotas
        os.environ.setdefault("OMP_NUM_THREADS", str(cpus))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy has no large products here
    output = take_streams()
    for each in STOP_SIGNALS:
        signal.signal(each, _terminate)
    try:
        cli()
    except Interrupted as stop:  # it came before or after a command
        click.echo(f"virnucpro: {stop}", err=True)
        sys.exit(stop.exit_code)
    except LostOutputError as error:
        click.echo(f"virnucpro: error: standard output: {error.strerror}", err=True)
        sys.exit(1)
    finally:
        for each in STOP_SIGNALS:  # nothing is left to be stopped but the interpreter
            signal.signal(each, lambda number, frame: os._exit(128 + number))
        output.vain = True  # nothing may go wrong with it any more
        sys.stdout.flush()
