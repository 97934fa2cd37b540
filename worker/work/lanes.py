"""Lanes: how much of each kind of work a process does side by side.

Each lane has a fixed number of slots, so that a backlog of explanations or a destination that hangs
never holds up a prediction. Work that its worker did not outlive before is a suspect: of those, a
lane runs one at a time, so that a study which kills its worker takes no others with it, again and
again, until they are given up too.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["Lanes"]


class Lanes:
    """The slots of one process, and what is in them.

    Parameters
    ----------
    slots
        Lane -> how many slots it has.
    """

    def __init__(self, slots: Mapping[str, int]) -> None:
        self.slots = dict(slots)
        self._free = {lane: threading.BoundedSemaphore(n) for lane, n in slots.items()}
        self._suspect = {lane: threading.Lock() for lane in slots}
        self._idle = threading.Condition()
        self._running = 0
        self._held: Counter[str] = Counter()
        self._draining = False

    @contextmanager
    def slot(self, lane: str) -> Iterator[bool]:
        """Yield whether a slot of the lane was free; it is taken until the end."""
        with self._idle:
            taken = not self._draining and self._free[lane].acquire(blocking=False)
            self._running += taken
        try:
            yield taken
        finally:
            if taken:
                with self._idle:
                    self._free[lane].release()
                    self._running -= 1
                    self._idle.notify_all()

    @contextmanager
    def suspect(self, lane: str) -> Iterator[bool]:
        """Yield whether no other suspect of the lane runs; none does until the end."""
        alone = self._suspect[lane].acquire(blocking=False)
        try:
            yield alone
        finally:
            if alone:
                self._suspect[lane].release()

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Say that a piece of work is being worked on, until the end."""
        with self._idle:
            self._held[key] += 1
        try:
            yield
        finally:
            with self._idle:
                self._held[key] -= 1
                self._held += Counter()  # forgets what is at 0

    def held(self) -> list[str]:
        """Return the keys of what is being worked on now: the leases to renew.

        An attempt that could not even tell the journal how it ended is not among them: its lease
        ends, and the sweep starts it again.
        """
        with self._idle:
            return list(self._held)

    def drain(self, timeout_s: float) -> bool:
        """Give no more slots and wait for what runs; return whether it ended in time."""
        with self._idle:
            self._draining = True
            self._idle.notify_all()
            return self._idle.wait_for(lambda: self._running == 0, timeout_s)

    def ends_within(self, timeout_s: float) -> bool:
        """Wait, and return whether this process has been told to end meanwhile."""
        with self._idle:
            return self._idle.wait_for(lambda: self._draining, timeout_s)
