"""Leases: this worker's name in the journal, its signs of life, and what the dead of its host held.

A name is random: a process in a container that is started again has the process id and the host
name of the one before. That a worker of this host is dead is known from its lock, a file that
nobody holds any more; of other hosts it is known when the lease ends.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from limen.journal import Journal, WorkerSign
from limen.rounds import Rounds

__all__ = ["Heartbeat", "Presence"]

log = structlog.get_logger("worker.work.lease")

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Presence:
    """A name that no other worker ever has, and a lock that is held while this process lives.

    Parameters
    ----------
    folder
        Where the workers of a host have their locks; each start of the machine has a folder of its
        own in it, so that hosts which share the disk never judge each other.
    """

    def __init__(self, folder: Path) -> None:
        self.owner = uuid.uuid4().hex
        self._folder = folder / _boot()
        self._file = -1
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = self._lock()
        except OSError as exc:  # then its leases end by themselves
            log.warning("lease.no_lock", error=exc)

    def _lock(self) -> int:
        """Make the file under another name first: it has its own when the lock is held."""
        part = self._folder / f".{self.owner}"
        file = os.open(part, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        part.rename(self._folder / self.owner)
        return file

    def leave(self) -> None:
        """Take the lock away: this worker has put back what it held."""
        if self._file >= 0:
            (self._folder / self.owner).unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1

    def release_the_dead(self, journal: Journal) -> int:
        """Put back what dead workers of this host were running; return how much that was.

        Raises
        ------
        Transient
            The journal is locked or away.
        """
        released = 0
        for owner in self._others():
            with self._dead(owner) as is_dead:
                if not is_dead:
                    continue
                count = journal.work.release_dead(owner)
                journal.deployments.died(owner)
                journal.workers.gone(owner)
                (self._folder / owner).unlink(missing_ok=True)
                log.warning("lease.released", count=count, reason="its worker died")
                released += count
        return released

    def _others(self) -> list[str]:
        if not self._folder.is_dir():
            return []
        names = (path.name for path in self._folder.iterdir())
        return sorted(n for n in names if n != self.owner and not n.startswith("."))

    @contextmanager
    def _dead(self, owner: str) -> Iterator[bool]:
        """Yield whether nobody holds the lock of ``owner``; it is held here meanwhile."""
        try:
            file = os.open(self._folder / owner, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # another worker has just dealt with it
            yield False
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
        finally:
            os.close(file)


class Heartbeat:
    """Gives signs of life from a thread of its own, three times a lease.

    Parameters
    ----------
    worker
        What this worker says of itself.
    held
        Returns the keys of what is being worked on; no other lease is renewed.
    """

    def __init__(
        self,
        journal: Journal,
        presence: Presence,
        worker: WorkerSign,
        lease_s: float,
        held: Callable[[], Collection[str]],
    ) -> None:
        self._journal = journal
        self._presence = presence
        self._worker = worker
        self._lease_s = lease_s
        self._held = held
        self._rounds = Rounds("heartbeat", self._beat, lease_s / 3)

    def start(self) -> None:
        """Start the thread."""
        self._rounds.start()

    def stop(self) -> None:
        """End the thread."""
        self._rounds.stop()

    def silent_s(self) -> float:
        """Return the seconds since the thread last came round."""
        return self._rounds.sign.silent_s()

    def _beat(self) -> None:
        """Renew; where that fails the lease may end, and another run then finds its result."""
        self._journal.work.renew(self._worker.id, self._lease_s, self._held())
        self._journal.workers.seen(self._worker, self._lease_s)
        self._presence.release_the_dead(self._journal)


def _boot() -> str:
    """Return what names this start of this machine; containers on it share it."""
    try:
        return _BOOT.read_text("ascii").strip()
    except OSError:
        return os.uname().nodename
