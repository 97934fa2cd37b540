"""Leases: this worker's name in the journal, and the heartbeat that keeps its claims."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Collection

import structlog

from limen.errors import LimenError
from limen.journal import Journal, host_name

__all__ = ["Heartbeat", "new_owner", "release_the_dead"]

log = structlog.get_logger("worker.lease")


def new_owner() -> str:
    """Return a name for this process that no other process ever has: host, pid, random."""
    return f"{host_name()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"


def release_the_dead(journal: Journal) -> int:
    """Put back at once what workers of this host were running when they died.

    Without it the work waits until its lease ends; workers of other hosts are left to that.
    """
    released = 0
    for owner in journal.owners():
        host, pid, _ = owner.rsplit(":", 2)
        if host == host_name() and not _is_alive(int(pid)):
            released += journal.release(owner)
    return released


class Heartbeat:
    """Renews the leases of ``owner`` from a thread of its own, three times a lease.

    Parameters
    ----------
    held
        Returns the keys of what is being worked on; no other lease is renewed.
    """

    def __init__(
        self, journal: Journal, owner: str, lease_s: float, held: Callable[[], Collection[str]]
    ) -> None:
        self._journal = journal
        self._owner = owner
        self._lease_s = lease_s
        self._held = held
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._lease_s / 3):
            try:
                self._journal.renew(self._owner, self._lease_s, self._held())
            except LimenError as exc:  # the lease may end; another run then finds its result
                log.warning("lease.not_renewed", error=exc)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
