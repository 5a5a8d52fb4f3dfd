"""The standard streams of the command: losing what was asked for is a failure, the rest is not."""

import errno
import io
import os
import sys
from typing import Any, TextIO


class LostOutputError(OSError):
    """Standard output takes no more."""


class RawStream(io.FileIO):
    """A standard stream that raises a LostOutputError where it fails, unless it is `vain`."""

    def __init__(self, number: int, vain: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self.vain = vain

    def write(self, data: Any) -> int:
        """Write all of it."""
        left = memoryview(data).cast("B")
        try:
            while left:
                written = super().write(left)
                if written is None:  # it would have to wait, and was told not to
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                left = left[written:]
        except OSError as error:
            if not self.vain:
                raise LostOutputError(error.errno, error.strerror) from error
        return memoryview(data).nbytes


def take_streams() -> RawStream:
    """Put the streams in order, once; gives what standard output is written through.

    A descriptor that is closed is given to the null device, so that no file of ours gets its
    number; it is opened the wrong way round, so that whoever uses it meets the error of a closed
    one. Streams that somebody put in place stay.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number that is free, which is this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, closefd=False)
    output = RawStream(1, vain=False)
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(io.BufferedWriter(output), sys.__stdout__)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(RawStream(2, vain=True), sys.__stderr__)
    return output


def _text(raw: Any, like: TextIO | None) -> TextIO:
    """A text stream over bytes, in the manner of another one."""
    is_buffered = isinstance(raw, io.BufferedWriter)
    return io.TextIOWrapper(
        raw,
        encoding=like.encoding if like else "utf-8",
        errors=(like.errors if like else None) or "backslashreplace",
        line_buffering=bool(like and like.line_buffering),
        write_through=not is_buffered or bool(like and getattr(like, "write_through", False)),
    )
