"""The folder of notes that wait for the collector: one file an event, in the order of their names.

Every process of a host writes here; one of them sends. ``dropped`` is a byte long for each event
that found the folder full.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Final

import structlog

from limen.audit.event import Event
from limen.durable import beside, sync_folder, write_new
from limen.telemetry import METRICS

__all__ = ["Notes"]

log = structlog.get_logger("limen.audit")

_DROPPED: Final = "dropped"
_LOG_EVERY_S: Final = 60.0


class Notes:
    """The folder.

    Parameters
    ----------
    most
        How many may wait; further events are dropped, and counted.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self._most = most
        self._naming = threading.Lock()
        self._last_ns = 0
        self._told_at = float("-inf")

    def add(self, event: Event) -> None:
        """Note an event, durable before this returns. Never raises: what is audited goes on."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if self._is_full():
                self._drop("the collector has been away for too long")
                return
            # Wall time orders events across processes; within one they stay in order whatever
            # the clock does.
            with self._naming:
                self._last_ns = max(time.time_ns(), self._last_ns + 1)
                path = self.folder / f"{self._last_ns:020d}-{os.getpid():07d}.json"
            with beside(path) as part:
                write_new(part, [event.to_json()])
            sync_folder(self.folder)
        except OSError as exc:
            self._drop(f"the folder cannot be written ({exc.strerror})")

    def waiting(self) -> list[str]:
        """Return the names of the notes, oldest first."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        return sorted(name for name in names if name.endswith(".json") and name[0] != ".")

    def read(self, name: str) -> Event:
        """Return a note.

        Raises
        ------
        Unreadable
            It is none.
        OSError
            The disk failed.
        """
        return Event.from_json((self.folder / name).read_bytes())

    def remove(self, name: str) -> None:
        """Delete a note: the collector has it."""
        (self.folder / name).unlink(missing_ok=True)

    def take_dropped(self) -> int:
        """Return how many events were dropped since this was asked last; 0 until there is room."""
        path = self.folder / _DROPPED
        try:
            if self._is_full():
                return 0
            taken = path.rename(path.with_suffix(".told"))
            count = taken.stat().st_size
            taken.unlink()
        except FileNotFoundError:
            return 0
        return count

    def _is_full(self) -> bool:
        return sum(1 for _ in os.scandir(self.folder)) >= self._most

    def _drop(self, reason: str) -> None:
        METRICS.audit_dropped.inc()
        now = time.monotonic()
        if now - self._told_at >= _LOG_EVERY_S:
            self._told_at = now
            log.error("audit.dropped", reason=reason)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            descriptor = os.open(self.folder / _DROPPED, flags, 0o600)
            try:
                os.write(descriptor, b".")
            finally:
                os.close(descriptor)
        except OSError:  # the log has said it
            pass
