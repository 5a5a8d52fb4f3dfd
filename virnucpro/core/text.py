"""Words for people: values from outside, in few letters."""

from __future__ import annotations

import reprlib

MOST_LETTERS = 200

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3
_SHORT.maxstring = _SHORT.maxother = MOST_LETTERS


def shown(value: object) -> str:
    """A value from outside as messages show it: as Python writes it, in at most 200 letters.

    However deep a value is nested, no more of it than that is looked at.

    >>> shown("mini"), len(shown(["x" * 10_000] * 10_000))
    ("'mini'", 200)
    """
    return clipped(_SHORT.repr(value))


def clipped(text: object, most: int = MOST_LETTERS) -> str:
    r"""Text on one line, in at most `most` letters; of a longer one its begin and its end.

    >>> clipped("mapping values\n  are not allowed here", 20)
    'mapping ...owed here'
    """
    line = " ".join(str(text).split())
    if len(line) <= most:
        return line
    begin = (most - 3) // 2
    return f"{line[:begin]}...{line[len(line) - (most - 3 - begin) :]}"
