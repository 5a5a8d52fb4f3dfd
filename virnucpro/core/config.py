"""Settings from YAML files and the environment (flags go before, in `cli`): known and typed."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from virnucpro.core.errors import ConfigError
from virnucpro.core.text import clipped, shown

T = TypeVar("T")

MOST_YAML_BYTES = 1 << 18
_LONG_NUMBER = re.compile(r"[-+]?[0-9]\S{1000}")  # 1:1:1 and on is base 60, and takes for ever
_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number from 0 to 10^19"),
    float: ((int, float), "a number from 0 to 10^19, such as 0.001 or 1.0e-3"),
    str: ((str, int), "text; put quotes around it"),
    Path: ((str, int), "the name of a file; put quotes around it"),
}
_MOST = 10**19  # times in nanoseconds are below it

PolicyName = Literal["open-frame", "longest"]
MODEL_TYPES = ("mini", "300", "500", "custom")
ORF_POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)
DTYPES = ("auto", "float32", "float16", "bfloat16")
PRECISIONS = (*DTYPES, "fp8")
SWITCHES = ("VIRNUCPRO_DISABLE_FP16", "VIRNUCPRO_DISABLE_PACKING", "VIRNUCPRO_V1_ATTENTION")
MOST = 10**12


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of sections, at most 256 KiB, in which no value stands for another one."""
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(MOST_YAML_BYTES + 1)
        if len(content) > MOST_YAML_BYTES:
            raise ValueError(f"over {MOST_YAML_BYTES:,} bytes")
        text = content.decode("utf-8")
        yaml.compose(text, yaml.SafeLoader)  # refuses at once what the scanner takes long for
        for token in yaml.scan(text, yaml.SafeLoader):
            where = f"line {token.start_mark.line + 1}"
            if isinstance(token, yaml.AliasToken):
                problem = f"*{token.value} stands for another value: write that value out"
                raise ValueError(f"{where}: {problem}")
            if isinstance(token, yaml.ScalarToken) and _LONG_NUMBER.match(token.value):
                raise ValueError(f"{where}: a number of {len(token.value)} digits")
        value = yaml.safe_load(text)
    except (OSError, yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({clipped(error)})") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected sections such as `prediction:`")
    return value


def build(kind: type[T], raw: Any, where: str) -> T:
    """Make a dataclass from a mapping; None is not given, and `where` begins every ConfigError."""
    known = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in _mapping(raw, where).items():
        if name not in known:
            problem = f"{where} has no setting named {clipped(name)}; it has {', '.join(known)}"
            raise ConfigError(problem)
        if value is not None:
            values[name] = _typed(known[name], value, _inside(where, name))
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is field.default_factory is MISSING:
            raise ConfigError(f"{_inside(where, field.name)} is missing")
    try:
        return kind(**values)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{where}: {clipped(error, 500)}") from error


def _typed(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) in (UnionType, Union):  # of a type and None, or of one and a list of them
        one, other = get_args(hint)
        hint = other if isinstance(value, list) and get_origin(other) is tuple else one
    origin, inner = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} must be a list, such as [a, b], got {shown(value)}")
        if inner[0] is str:  # YAML reads the class `null` as nothing
            value = ["null" if entry is None else entry for entry in value]
        return tuple(_typed(inner[0], v, f"{where}[{at}]") for at, v in enumerate(value))
    if origin is dict:
        items = _mapping(value, where).items()
        names = [scalar(str, name, f"{where}: the name") for name, _ in items]
        checked = [_typed(inner[1], v, _inside(where, clipped(name))) for name, v in items]
        return dict(zip(names, checked, strict=True))
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{where} must be {' or '.join(inner)}, got {shown(value)}")
        return value
    return scalar(hint, value, where)


def scalar(hint: Any, value: Any, where: str) -> Any:
    """A value as a number, text or path; a ConfigError that begins with `where` if it is none."""
    kinds, wanted = _SCALARS[hint]
    fits = isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
    if not fits or (hint in (int, float) and not 0 <= value <= _MOST):
        raise ConfigError(f"{where} must be {wanted}, got {shown(value)}")
    return value if hint in (bool, int, float) else hint(str(value))


def _mapping(raw: Any, where: str) -> dict[Any, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} must be a mapping of names to values, got {shown(raw)}")
    return raw


def _inside(where: str, name: str) -> str:
    return f"{where}{'.' if ': ' in where else ': '}{name}"


class Key(NamedTuple):
    """One setting."""

    default: Any  # None where it follows from something else
    kind: type  # int, bool, str or Path
    help: str
    least: int = 0
    choices: tuple[str, ...] = ()  # the only words that are taken; empty for any
    variable: str = ""  # a second environment variable, which goes before the one named by the key


KEYS: dict[str, Key] = {
    "prediction.model_type": Key("mini", str, "model", choices=MODEL_TYPES),
    "prediction.model_path": Key(None, Path, "directory or file of the custom model"),
    "prediction.expected_length": Key(None, int, "chunk length (nt); default: the model's", 30),
    "prediction.batch_size": Key(256, int, "rows per classifier batch", 1),
    "prediction.num_workers": Key(4, int, "threads that read merged files for the classifier"),
    "prediction.sequences_per_file": Key(
        None, int, "ORFs a unit; default 10000, large on CPU 100", 1
    ),
    "prediction.threads": Key(None, int, "CPU threads of a run; default: usable CPUs", 1),
    "prediction.min_length": Key(0, int, "shortest record to score (nt)"),
    "prediction.worker_timeout": Key(900, int, "silence of a worker that counts as hung (s)", 1),
    "device.name": Key("auto", str, "auto, cpu, cuda, cuda:N or N"),
    "device.fallback_to_cpu": Key(False, bool, "use the CPU where the named GPU is missing"),
    "device.dtype": Key("auto", str, "numbers to embed with", choices=DTYPES),
    "features.dnabert.batch_size": Key(None, int, "DNA tokens per batch; default: by memory", 16),
    "features.esm.toks_per_batch": Key(None, int, "protein tokens per batch, as dnabert's", 16),
    "features.dataloader_workers": Key(None, int, "threads that tokenise in a rank; default: 1"),
    "models.home": Key(None, Path, "where installed models lie", variable="VIRNUCPRO_MODEL_DIR"),
    "models.offline": Key(False, bool, "never ask the network", variable="VIRNUCPRO_OFFLINE"),
    "files.keep_intermediate": Key(False, bool, "keep chunk, ORF and feature files"),
    "logging.format": Key("text", str, "form of log lines", choices=("text", "json")),
    "logging.file": Key(None, Path, "also log to this file, DEBUG included"),
    "progress.enabled": Key(True, bool, "show progress"),
}


class Config(dict[str, Any]):
    """Values of all `KEYS` by name, and in `sources` the place that each came from."""

    sources: dict[str, str]

    @classmethod
    def load(cls, path: Path | None = None, environ: Mapping[str, str] | None = None) -> "Config":
        """Lay environment over file over defaults; a ConfigError names the nearest key."""
        config = cls((name, key.default) for name, key in KEYS.items())
        config.sources = dict.fromkeys(KEYS, "default")
        tree = _flatten(read_yaml(path) if path else {}, str(path))
        given = [(name, value, str(path)) for name, value in tree.items()]
        for name, key in KEYS.items():
            for variable in (environment_name(name), key.variable):
                if environ and variable in environ:
                    given.append((name, environ[variable], variable))
        for name, value, source in given:
            config[name], config.sources[name] = _checked(name, value, source), source
        return config


def environment_name(name: str) -> str:
    """The environment variable of a key: VIRNUCPRO_MODELS_HOME of `models.home`."""
    return "VIRNUCPRO_" + name.upper().replace(".", "_")


def unknown_variables(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Variables that begin as ours and set nothing, each with the nearest one that does."""
    known = {*map(environment_name, KEYS), *SWITCHES, *(key.variable for key in KEYS.values())}
    ours = [name for name in environ if name.startswith("VIRNUCPRO_")]
    return [(name, nearest(name, known)) for name in sorted(ours) if name not in known]


def nearest(word: str, known: Iterable[str]) -> str:
    """The most similar of the words that would have been understood."""
    return difflib.get_close_matches(clipped(word), list(known), n=1, cutoff=0.0)[0]


def parse_flag(text: str, name: str) -> bool:
    """Read a yes-or-no environment variable; any other word is a ConfigError."""
    word = text.strip().lower()
    if (is_true := word in ("1", "true", "yes", "on")) or word in ("0", "false", "no", "off", ""):
        return is_true
    raise ConfigError(f"{name}={clipped(text)}: use 1, true, yes or 0, false, no")


def default_yaml() -> str:
    """A configuration file with every key, its default and what it does."""
    lines = ["# VirNucPro settings: flags and environment variables go before this file."]
    for name, key in KEYS.items():
        *sections, leaf = name.split(".")
        for depth, section in enumerate(sections):
            if (line := "  " * depth + f"{section}:") not in lines:
                lines.append(line)
        value = "null" if key.default is None else str(key.default).lower()
        words = f"{key.help}: {', '.join(key.choices)}" if key.choices else key.help
        lines.append("  " * len(sections) + f"{leaf}: {value}  # {words}")
    return "\n".join(lines) + "\n"


def _flatten(tree: Mapping[Any, Any], source: str, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in KEYS:
            flat[name] = value
        elif inside := [known for known in KEYS if known.startswith(f"{name}.")]:
            if not isinstance(value, dict | None):
                raise ConfigError(f"{source}: {name} is a section, with keys such as {inside[0]}")
            flat.update(_flatten(value or {}, source, f"{name}."))
        else:
            leaf = f"{name}.{next(iter(value))}" if isinstance(value, dict) and value else name
            near = nearest(leaf, KEYS)
            raise ConfigError(f"{source}: unknown setting {shown(leaf)}; did you mean '{near}'?")
    return flat


def _checked(name: str, value: Any, source: str) -> Any:
    key, where = KEYS[name], f"{source}: {name}"
    if value is None or (value == "" and key.kind is not bool):
        return key.default
    if key.kind is bool:
        return value if isinstance(value, bool) else parse_flag(str(value), where)
    if key.kind is int and isinstance(value, str) and value.strip().isdecimal():
        value = int(value[:100])
    value = scalar(key.kind, value, where)
    if key.kind is int and not key.least <= value <= MOST:
        raise ConfigError(f"{where} must be at least {key.least} and at most {MOST}, got {value}")
    if key.choices and value not in key.choices:
        raise ConfigError(f"{where} must be one of {', '.join(key.choices)}, got {shown(value)}")
    try:
        return value.expanduser() if key.kind is Path else value
    except RuntimeError as error:
        problem = "no home directory is known for it; give the path in full"
        raise ConfigError(f"{where}: {shown(str(value))}: {problem}") from error
