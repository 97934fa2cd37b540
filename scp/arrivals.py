"""Arrivals: what was kept, and which associations ended, in order, on its way to the journal.

One queue for both, so that an end is never seen before the instances it follows. Adding to it wakes
nobody: that would cost the sender who waits for its answer two changes of thread.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from limen.errors import Busy
from limen.instance import NewInstance

__all__ = ["Arrival", "Arrivals"]

_LIMIT, _LIMIT_WITH_ENDS = 2000, 4000
_ROOM_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """An instance that has no row yet, or the end of an association.

    Attributes
    ----------
    number
        Grows with each instance; 0 for an end.
    instance
        None for an end.
    association
        That carried the instance, or that ended; None for an instance found in the spool.
    """

    number: int
    instance: NewInstance | None
    association: int | None


class Arrivals:
    """The queue. An instance is pending from ``add`` to ``settle``; shared by threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[Arrival] = deque()
        self._numbers = 0
        self._pending: dict[int, NewInstance] = {}
        self._studies: Counter[str] = Counter()
        self._without_room = 0
        self._was_full = False

    def add(self, instance: NewInstance, association: int) -> None:
        """Put an instance at the end.

        Raises
        ------
        Busy
            There has been no room for ten seconds.
        """
        with self._changed:
            arrival = self._announce(instance, association)
            if not self._wait_for_room():
                self._forget(arrival)
                raise Busy("the journal is not keeping up; send again later")
            self._queue.append(arrival)

    def found(self, instance: NewInstance) -> Arrival:
        """Announce an instance that was found in the spool; it takes no place in the queue."""
        with self._changed:
            return self._announce(instance, None)

    def ended(self, association: int) -> None:
        """Put the end of an association behind its instances.

        Nobody waits for room to say so: where there is none at all, ``quiet_s`` alone decides.
        """
        with self._changed:
            if len(self._queue) < _LIMIT_WITH_ENDS:
                self._queue.append(Arrival(0, None, association))

    def take(self, limit: int) -> list[Arrival]:
        """Take the oldest out of the queue; they stay pending."""
        with self._changed:
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), limit))]
            if self._without_room:
                self._changed.notify_all()
            return taken

    def settle(self, arrivals: Iterable[Arrival]) -> None:
        """Note that these have their rows, or never will."""
        with self._changed:
            for arrival in arrivals:
                self._forget(arrival)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until nothing is pending of what is pending now.

        Raises
        ------
        Busy
            The journal is not keeping up.
        """
        with self._changed:
            last = self._numbers
            if not self._changed.wait_for(lambda: self._oldest() > last, _ROOM_S):
                raise Busy("the journal is not keeping up; ask again later")

    def is_pending(self, study_key: str) -> bool:
        """Return whether an instance of a study has no row yet."""
        with self._changed:
            return study_key in self._studies

    def paths(self) -> set[str]:
        """Return the spool paths of what is pending."""
        with self._changed:
            return {instance.path for instance in self._pending.values()}

    def was_full(self) -> bool:
        """Return whether anyone has had to wait for room since this was asked last."""
        with self._changed:
            was, self._was_full = self._was_full, self._without_room > 0
            return was

    def __len__(self) -> int:
        """Return how many are in the queue."""
        return len(self._queue)

    def _announce(self, instance: NewInstance, association: int | None) -> Arrival:
        self._numbers += 1
        self._pending[self._numbers] = instance
        self._studies[instance.study_key] += 1
        return Arrival(self._numbers, instance, association)

    def _forget(self, arrival: Arrival) -> None:
        instance = self._pending.pop(arrival.number, None)
        if instance is None:
            return
        self._studies[instance.study_key] -= 1
        if not self._studies[instance.study_key]:
            del self._studies[instance.study_key]

    def _oldest(self) -> int:
        return next(iter(self._pending), self._numbers + 1)

    def _wait_for_room(self) -> bool:
        if len(self._queue) < _LIMIT:
            return True
        self._was_full = True
        self._without_room += 1
        try:
            return self._changed.wait_for(lambda: len(self._queue) < _LIMIT, _ROOM_S)
        finally:
            self._without_room -= 1
