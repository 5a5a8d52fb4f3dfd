"""Values, times, sizes and shares as people read them; each form stands here once."""

import reprlib

MOST_LETTERS = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, MOST_LETTERS, MOST_LETTERS


def shown(value: object) -> str:
    """A value from outside as messages show it: as Python writes it, in at most 200 letters.

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


def one_line(reason: BaseException | str) -> str:
    r"""A reason, of an error with its type, that is no two lines and no second column.

    >>> one_line("bad\n  file|x"), one_line(KeyError("a"))
    ('bad file/x', "KeyError: 'a'")
    """
    text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
    return " ".join(text.split()).replace("|", "/")


def counted(count: int, noun: str) -> str:
    """A number of things, such as `1 record` and `2,000 records`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds in the units people say.

    >>> duration(0.0321), duration(75.2), duration(4000)
    ('0.03 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(share: float) -> str:
    """A share as a percentage that rounds no small risk to nothing, and no exception away.

    >>> percent(0.0213), percent(0.00001), percent(0.0), percent(0.9999)
    ('2.1%', '<0.1%', '0%', '>99.9%')
    """
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{100 * share:.1f}%" if 0 < share < 1 else f"{share:.0%}"


def size(count: float) -> str:
    """Bytes of files in the units people say, such as `2.5 MB`."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count:.0f} B"


def gib(count: float) -> str:
    """Bytes of memory, such as `1.0 GiB`."""
    return f"{count / 2**30:.1f} GiB"
