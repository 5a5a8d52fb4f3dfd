"""Who scores which block of units, among processes that share nothing but a folder or a bucket.

A claim is created, never changed: `claim-{block}-{n}`, where n counts how often the block changed
hands, names the worker that holds it. The worker keeps writing its own `beat-{worker}`. No clock of
another host is believed: a claim has expired when whoever looks at it has seen the same beat for
the time of a lease, by its own clock. Two workers on one block cost time and no more: of two
commits of a unit the later one changes nothing.
"""

from __future__ import annotations

import json
import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

from virnucpro.core.errors import OutputError
from virnucpro.core.storage import Storage

MOST_HANDS = 5  # a block that was lost so often kills workers
BEATS_A_LEASE = 10
_MISSES = 8  # claims in a row that others were quicker at, before looking anew
_WATCHED = 8  # claims of others that one worker keeps an eye on
_CLAIM = re.compile(r"claim-(\d+)-(\d+)")
_CLOCK = time.monotonic


def latest_claims(names: Collection[str]) -> dict[int, int]:
    """The claim in force of each block that has any: how often the block had changed hands."""
    found: dict[int, int] = {}
    for name in names:
        if match := _CLAIM.fullmatch(name):
            block, hands = int(match[1]), int(match[2])
            found[block] = max(hands, found.get(block, 0))
    return found


class Claims:
    """The claims of one worker, which lie in `notes`. A context manager: it beats in its block.

    `lease_s` without a beat lets others take over; `patience_s` without progress ends the beats.
    """

    def __init__(self, notes: Storage, lease_s: float, patience_s: float) -> None:
        self._notes, self._lease_s, self._patience_s = notes, lease_s, patience_s
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.units = self.rows = 0  # done so far
        self._seen: dict[tuple[int, int], tuple[bytes | None, float]] = {}
        self._start = self._progress = _CLOCK()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True, name="lease")

    def __enter__(self) -> Claims:
        self._notes.create(f"beat-{self.worker}", self._beat(0))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def progress(self, rows: int) -> None:
        """Say that this worker is not hung."""
        self.rows += rows
        self._progress = _CLOCK()

    def take(
        self, open_blocks: Collection[int], names: Collection[str]
    ) -> Iterator[tuple[int, int]]:
        """Claim open blocks, free ones or of a silent holder; yields how often each had been lost.

        Ends where nothing is free, or others are quicker: look again. `names` are of that time.
        """
        held, misses = latest_claims(names), 0
        free = [block for block in open_blocks if block not in held]
        random.shuffle(free)
        for block in free:
            if self._claim(block, 0):
                misses = 0
                yield block, 0
            elif (misses := misses + 1) == _MISSES:
                return
        if not free:
            for block, hands in self._expired({b: held[b] for b in open_blocks}):
                if self._claim(block, hands + 1):
                    yield block, hands + 1

    def _claim(self, block: int, hands: int) -> bool:
        self.progress(0)
        return self._notes.create(f"claim-{block}-{hands}", self.worker.encode())

    def _expired(self, held: dict[int, int]) -> Iterator[tuple[int, int]]:
        """Claims of others whose beat has stood still for a lease, of the few that are watched."""
        self._seen = {claim: seen for claim, seen in self._seen.items() if claim in held.items()}
        others = [claim for claim in held.items() if claim not in self._seen]
        watched = [*self._seen, *random.sample(others, min(_WATCHED, len(others)))][:_WATCHED]
        for block, hands in watched:
            now = _CLOCK()  # before the look: a process that is stopped in between sees a new beat
            holder = self._notes.read(f"claim-{block}-{hands}") or b""
            beat = self._notes.read(f"beat-{holder.decode()}")
            before, since = self._seen.setdefault((block, hands), (beat, now))
            if beat != before or holder.decode() == self.worker:
                self._seen[block, hands] = beat, now
            elif now - since > self._lease_s:
                yield block, hands

    def _keep_beating(self) -> None:
        number = 0
        while not self._end.wait(self._lease_s / BEATS_A_LEASE):
            if _CLOCK() - self._progress < self._patience_s:
                number += 1
                with suppress(OutputError, OSError):  # the next one may come through
                    self._notes.write(f"beat-{self.worker}", self._beat(number))

    def _beat(self, number: int) -> bytes:
        about: dict[str, Any] = {
            "beat": number, "worker": self.worker, "units": self.units, "orfs": self.rows,
            "seconds": round(_CLOCK() - self._start, 1),
        }  # fmt: skip
        return json.dumps(about).encode()
