"""A machine for the few pickle instructions that weights need.

Room 4 (batch -> one vector per ORF). A pickle is a program. This machine builds inert values
with it: no class is imported, no function of the pickle's choice is called, no attribute is
set on anything. A global that is not in `ALLOWED_GLOBALS` ends the reading, wherever it
stands and whether or not it would be called.

Source:
    The instructions: pickletools.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from virnucpro.core.errors import ModelError

MAX_PICKLE_BYTES = 1 << 20

MODULE_CLASSES = {
    ("__main__", "MLPClassifier"),
    ("torch.nn.modules.linear", "Linear"),
    ("torch.nn.modules.batchnorm", "BatchNorm1d"),
    ("torch.nn.modules.dropout", "Dropout"),
    ("torch.nn.modules.activation", "ReLU"),
}
STORAGES = {
    ("torch", "FloatStorage"): "<f4",
    ("torch", "DoubleStorage"): "<f8",
    ("torch", "HalfStorage"): "<f2",
    ("torch", "LongStorage"): "<i8",
}
SETS = {("builtins", "set"), ("__builtin__", "set")}
REBUILD_TENSOR = ("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = ("torch._utils", "_rebuild_parameter")
ORDERED_DICT = ("collections", "OrderedDict")
ALLOWED_GLOBALS = (
    MODULE_CLASSES | STORAGES.keys() | SETS | {REBUILD_TENSOR, REBUILD_PARAMETER, ORDERED_DICT}
)


@dataclass(frozen=True, slots=True)
class Global:
    """The name of a class or function; never the thing itself."""

    module: str
    name: str

    @property
    def key(self) -> tuple[str, str]:
        """Module and name, as in `ALLOWED_GLOBALS`."""
        return self.module, self.name


@dataclass(slots=True, eq=False)
class Inert:
    """Stands for an object of the pickle: the name of its class and the state it was given."""

    kind: Global
    state: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of numbers in the file: numpy type, name, count."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorView:
    """A tensor as a piece of a storage; offset, shape and stride count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class PickleMachine:
    """Steps through one pickle; every value on its stack was made here.

    Attributes:
        storages: the blocks of numbers that the pickle speaks of, by key.
    """

    def __init__(self, source: bytes | BytesIO) -> None:
        if isinstance(source, bytes):
            if len(source) > MAX_PICKLE_BYTES:
                raise ModelError(f"a pickle of {len(source)} bytes; weights need a few thousand")
            source = BytesIO(source)
        self.source = source
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        """Step to the end of the pickle, and leave the stream behind it.

        Returns:
            The pickled value, of dicts, lists, tuples, numbers, text, `Inert` and `TensorView`.

        Raises:
            ModelError: an instruction, a global or a call that weights do not need.
            ValueError, IndexError, KeyError, TypeError: the pickle is damaged.
        """
        start = self.source.tell()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in names, which are then refused
            for opcode, argument, position in pickletools.genops(self.source):
                if (position or 0) - start > MAX_PICKLE_BYTES:
                    raise ModelError("the pickle does not end; weights need a few thousand bytes")
                self._step(opcode.name, argument)
                if opcode.name == "STOP":
                    break
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        step = _STEPS.get(name)
        if step is None:
            raise ModelError(f"pickle instruction {name} has no place in weights")
        step(self, argument)

    def close_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def close_mark_into(self, kind: type) -> None:
        """Add what stands above the mark to the list or dict below it."""
        items = self.close_mark()
        if kind is dict:
            self.set_items(items)
        else:
            self.top(list).extend(items)

    def remember(self, index: int | None) -> None:
        """Keep the top of the stack under a number."""
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def name_global(self, module: Any, name: Any) -> None:
        """Push the name of a class or function, if weights need it."""
        if (module, name) not in ALLOWED_GLOBALS:
            raise ModelError(
                f"its pickle names {module}.{name}, which weights do not need and which could "
                "run code; nothing of it was executed"
            )
        self.stack.append(Global(module, name))

    def set_items(self, items: list[Any]) -> None:
        """Store keys and values in the dict on top of the stack."""
        target = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # hashing nested tuples can take forever
                raise ModelError(f"a dictionary key of type {type(key).__name__}")
            target[key] = value

    def top(self, kind: type) -> Any:
        """The value on top of the stack, which must be of exactly this type."""
        if type(self.stack[-1]) is not kind:
            raise ModelError(f"expected a {kind.__name__} in the pickle")
        return self.stack[-1]

    def call(self) -> None:
        """Do what a known function would do, with inert values."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise ModelError("the pickle calls something that is not a known function")
        if function.key == REBUILD_TENSOR:
            self.stack.append(_tensor_view(*arguments[:4]))
        elif function.key == REBUILD_PARAMETER and isinstance(arguments[0], TensorView):
            self.stack.append(arguments[0])
        elif function.key == ORDERED_DICT and not arguments:
            self.stack.append({})
        elif function.key in SETS:
            self.stack.append(Inert(function))
        else:
            raise ModelError(f"the pickle calls {function.module}.{function.name}")

    def create(self) -> None:
        """Push an empty layer."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        known = isinstance(kind, Global) and kind.key in MODULE_CLASSES
        if not known or arguments != ():
            raise ModelError("the pickle makes an object that is no known layer")
        self.stack.append(Inert(kind))

    def give_state(self) -> None:
        """Give a layer its dict of attributes."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, dict) or not isinstance(target, Inert | dict):
            raise ModelError("the pickle sets the state of something that is no layer")
        if isinstance(target, Inert):
            target.state = state  # what a dict gets (`_metadata`) is not needed

    def refer(self) -> None:
        """Push the storage (or class) that a reference out of the pickle means."""
        match self.stack.pop():
            case ("module", Global() as kind, *_) if kind.key in MODULE_CLASSES:
                self.stack.append(kind)
            case ("storage", Global() as kind, str(key), _, int(count), *view) if (
                kind.key in STORAGES and count >= 0 and view in ([], [None])
            ):
                storage = Storage(STORAGES[kind.key], key, count)
                if self.storages.setdefault(key, storage) != storage:
                    raise ModelError(f"storage {key!r} is described twice")
                self.stack.append(storage)
            case _:
                raise ModelError("the pickle refers to something that is no storage of numbers")


def _tensor_view(storage: Any, offset: Any, shape: Any, stride: Any) -> TensorView:
    numbers = (offset, *shape, *stride) if type(shape) is type(stride) is tuple else (None,)
    if not isinstance(storage, Storage) or len(shape) != len(stride) or len(shape) > 4:
        raise ModelError("a tensor without a storage, or of too many dimensions")
    if any(type(number) is not int or not 0 <= number < 1 << 40 for number in numbers):
        raise ModelError("a tensor whose shape is not made of sizes")
    return TensorView(storage, offset, shape, stride)


def _tuple_of(count: int) -> Callable[[PickleMachine, Any], None]:
    def step(machine: PickleMachine, _: Any) -> None:
        items = [machine.stack.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _set_one(machine: PickleMachine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    machine.set_items([key, value])


def _append_one(machine: PickleMachine, _: Any) -> None:
    value = machine.stack.pop()
    machine.top(list).append(value)


def _open_mark(machine: PickleMachine, _: Any) -> None:
    machine.below.append(machine.stack)
    machine.stack = []


def _stack_global(machine: PickleMachine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if not (isinstance(module, str) and isinstance(name, str)):
        raise ModelError("a global whose name is no text")
    machine.name_global(module, name)


def _push(machine: PickleMachine, value: Any) -> None:
    machine.stack.append(value)


_Step = Callable[[PickleMachine, Any], None]
_STEPS: dict[str, _Step] = {
    "PROTO": lambda machine, _: None,
    "STOP": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": _open_mark,
    "NONE": lambda machine, _: _push(machine, None),
    "NEWTRUE": lambda machine, _: _push(machine, True),
    "NEWFALSE": lambda machine, _: _push(machine, False),
    "EMPTY_TUPLE": lambda machine, _: _push(machine, ()),
    "EMPTY_LIST": lambda machine, _: _push(machine, []),
    "EMPTY_DICT": lambda machine, _: _push(machine, {}),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine.close_mark())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _append_one,
    "APPENDS": lambda machine, _: machine.close_mark_into(list),
    "SETITEM": _set_one,
    "SETITEMS": lambda machine, _: machine.close_mark_into(dict),
    "MEMOIZE": lambda machine, _: machine.remember(None),
    "STACK_GLOBAL": _stack_global,
    "GLOBAL": lambda machine, names: machine.name_global(*names.split(" ", 1)),
    "REDUCE": lambda machine, _: machine.call(),
    "NEWOBJ": lambda machine, _: machine.create(),
    "BUILD": lambda machine, _: machine.give_state(),
    "BINPERSID": lambda machine, _: machine.refer(),
}
_STEPS |= dict.fromkeys(("BINPUT", "LONG_BINPUT"), lambda machine, at: machine.remember(at))
_STEPS |= dict.fromkeys(
    ("BINGET", "LONG_BINGET"), lambda machine, at: _push(machine, machine.memo[at])
)
_STEPS |= dict.fromkeys(
    ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    _push,
)
