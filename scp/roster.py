"""The roster: associations that this process serves, one thread each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from scp.association import Association
from scp.commitment_messages import Report
from scp.connection import Connection
from scp.service import Service

__all__ = ["TURN_S", "Roster"]

_STACK_BYTES = 512 * 1024  # virtual; a thread that waits has touched a few pages of it
_ABORTED_S = 3.0
TURN_S = 0.0005
"""How long a thread may compute while others wait: of thirty busy ones each waits for all others.

Python's own 5 ms would be 150 ms for every step of a good peer; and an association that comes back
from the disk would wait as long for the thread that writes rows.
"""


class Roster:
    """Starts associations and knows which are open.

    Parameters
    ----------
    on_end
        Called with the number of an association when it is over.
    """

    def __init__(self, service: Service, on_end: Callable[[int], None]) -> None:
        self._service = service
        self._on_end = on_end
        self._open: dict[int, Association] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def serve(self, connection: Connection) -> None:
        """Serve a connection in a thread of its own.

        Raises
        ------
        RuntimeError
            No thread can be started.
        """
        association = Association(connection, self._service)
        with self._lock:
            self._open[connection.number] = association
        before = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(
                target=self._run,
                args=(association,),
                name=f"association-{connection.number}",
                daemon=True,
            ).start()
        except RuntimeError:
            self._forget(association)
            raise
        finally:
            threading.stack_size(before)

    def report(self, association: int, report: Report) -> bool:
        """Send a report on an association; return whether it is there and the peer took it.

        Raises
        ------
        Busy
            It is there, but in the middle of a message.
        """
        with self._lock:
            found = self._open.get(association)
        return found is not None and found.report(report)

    def open(self) -> list[Association]:
        """Return those that are open now."""
        with self._lock:
            return list(self._open.values())

    def drain(self, seconds: float) -> None:
        """Let established associations end, then end them.

        One that is not established (a handshake that never ended) has nothing to lose.
        """
        for association in self.open():
            if not association.is_established:
                association.abort()
        self._wait(seconds)
        self.abort_all()

    def abort_all(self) -> None:
        """End what is open, and wait until it is."""
        for association in self.open():
            association.abort()
        self._wait(_ABORTED_S)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with self._changed:
            while self._open and time.monotonic() < deadline:
                self._changed.wait(max(0.0, deadline - time.monotonic()))

    def _run(self, association: Association) -> None:
        try:
            association.run()
        finally:
            self._forget(association)
            self._on_end(association.number)

    def _forget(self, association: Association) -> None:
        with self._changed:
            self._open.pop(association.number, None)
            self._changed.notify_all()
