"""Takes notes to the collector, oldest first, and deletes what it has. One process of a host sends.

A message counts as there when TCP has acknowledged it and the connection has held for some seconds
since: a collector that dies resets the connection, and what it may not have read is sent again, in
its old order. So messages may come twice, but never not at all.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from limen.audit.event import Event, Kind
from limen.audit.message import Source, to_xml
from limen.audit.notes import Notes
from limen.audit.syslog import Line, frame
from limen.errors import LimenError, Unreadable
from limen.telemetry import METRICS

__all__ = ["SETTLED_S", "Sender"]

log = structlog.get_logger("limen.audit")

SETTLED_S: Final = 5.0
"""How long a connection has to hold after a message until its note is deleted."""


class Sender:
    """Sends notes.

    Parameters
    ----------
    connect
        Opens the way to the collector; raises ``LimenError``.
    source
        Who we are in the messages.
    """

    def __init__(self, notes: Notes, connect: Callable[[], Line], source: Source) -> None:
        self._notes = notes
        self._connect = connect
        self._source = source
        self._line: Line | None = None
        self._sent: dict[str, float] = {}
        self._lock: int | None = None

    def round(self) -> bool:
        """Send what waits, and delete what has arrived; return whether this process sends.

        Raises
        ------
        LimenError
            The collector is away; nothing is lost.
        """
        if not self._has_the_turn():
            return False
        dropped = self._notes.take_dropped()
        if dropped:
            now = datetime.now(UTC)
            self._notes.add(Event(Kind.DROPPED, now, "audit", os.getpid(), 4, count=dropped))
        try:
            self._settle()
            self._send()
        finally:
            METRICS.audit_waiting.set(len(self._notes.waiting()))
        return True

    def close(self) -> None:
        """Hang up; what the collector has read by then is deleted."""
        if self._line is not None:
            if self._line.close():
                self._forget(list(self._sent))
            self._line = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _has_the_turn(self) -> bool:
        """Whether this process is the one that sends: whoever came first, until it ends."""
        if self._lock is None:
            self._notes.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._notes.folder / "sender.lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def _settle(self) -> None:
        """Delete what the collector has; begin again where a connection was lost."""
        if self._line is None:
            return
        if not self._line.is_open():
            self._lost()
            return
        if self._line.is_delivered():
            before = time.monotonic() - SETTLED_S
            self._forget([name for name, at in self._sent.items() if at <= before])

    def _send(self) -> None:
        names = [name for name in self._notes.waiting() if name not in self._sent]
        if not names:
            return
        if self._line is None:
            self._line = self._connect()
        for name in names:
            try:
                event = self._notes.read(name)
            except Unreadable as exc:
                log.error("audit.unreadable", path=name, error=exc)
                self._notes.remove(name)
                continue
            try:
                self._line.send(self._framed(event))
            except LimenError:
                self._lost()
                raise
            self._sent[name] = time.monotonic()

    def _framed(self, event: Event) -> bytes:
        return frame(
            to_xml(event, self._source),
            at=event.at,
            host=self._source.host,
            app=self._source.source_id,
            pid=event.pid,
            succeeded=not event.outcome,
        )

    def _lost(self) -> None:
        """Forget the connection: what it may not have brought is sent again."""
        if self._line is not None:
            self._line.drop()
        self._line = None
        self._sent.clear()

    def _forget(self, names: list[str]) -> None:
        for name in names:
            self._notes.remove(name)
            del self._sent[name]
        METRICS.audit_sent.inc(len(names))
