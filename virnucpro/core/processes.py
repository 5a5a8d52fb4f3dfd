"""What every process that we start does first: leave Ctrl-C to its parent, and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def become_worker() -> None:
    """Call it first in a spawned process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in this block leave Ctrl-C to their parent, from their first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


# Each library has its own; they are read when it is loaded.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS",
)  # fmt: skip
# Whoever asks for tokens computes them, and not one pool for all that ask.
_INLINE = {"TOKENIZERS_PARALLELISM": "false"}


@contextmanager
def at_most_threads(threads: int, with_torch: bool = True) -> Iterator[None]:
    """Bound CPU threads in this block; processes that it starts have one each."""
    if with_torch:
        import torch  # before the variables are set: it would take them for its own

        before = torch.get_num_threads()
        torch.set_num_threads(min(threads, before))
    known = {name: os.environ.get(name) for name in (*_THREAD_VARIABLES, *_INLINE)}
    os.environ.update({**dict.fromkeys(_THREAD_VARIABLES, "1"), **_INLINE})
    try:
        yield
    finally:
        if with_torch:
            torch.set_num_threads(before)
        for name, value in known.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """Wait for the parent's end, however it comes, and end this process at once."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
