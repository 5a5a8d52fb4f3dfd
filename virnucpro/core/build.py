"""YAML files, and frozen dataclasses from their values: every key known, typed and in range."""

import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
            values[name] = _checked(known[name], value, _inside(where, name))
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is field.default_factory is MISSING:
            raise ConfigError(f"{_inside(where, field.name)} is missing")
    try:
        return kind(**values)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{where}: {clipped(error, 500)}") from error


def _checked(hint: Any, value: Any, where: str) -> Any:
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
        return tuple(_checked(inner[0], v, f"{where}[{at}]") for at, v in enumerate(value))
    if origin is dict:
        items = _mapping(value, where).items()
        names = [scalar(str, name, f"{where}: the name") for name, _ in items]
        checked = [_checked(inner[1], v, _inside(where, clipped(name))) for name, v in items]
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
