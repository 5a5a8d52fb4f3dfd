"""What every process that we start does first: leave Ctrl-C to its parent, and end with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def become_worker() -> None:
    """Call it first in a spawned process."""

    def end_with_parent() -> None:  # however that ends
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=end_with_parent, daemon=True, name="parent-watch").start()


@contextmanager
def children_ignore_interrupts() -> Iterator[None]:
    """Processes started in this block leave Ctrl-C to their parent, from their first moment."""
    is_main = threading.current_thread() is threading.main_thread()  # the only one that may
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


# Each library has its own, read when it is loaded. Whoever asks for tokens computes them, and not
# one pool for all that ask.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


@contextmanager
def at_most_threads(threads: int, with_torch: bool = True) -> Iterator[None]:
    """Bound CPU threads in this block; processes that it starts have one each."""
    if with_torch:
        import torch  # before the variables are set: it would take them for its own

        before = torch.get_num_threads()
        torch.set_num_threads(min(threads, before))
    known = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        if with_torch:
            torch.set_num_threads(before)
        for name in _ONE_THREAD:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in known.items() if value is not None})
