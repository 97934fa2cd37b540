"""The audit trail of one process: events are noted at once, and sent in a thread behind it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from datetime import UTC, datetime
from typing import Any, Final

from limen.audit.event import Event, Kind
from limen.audit.message import Source
from limen.audit.notes import Notes
from limen.audit.sender import Sender
from limen.audit.syslog import Line
from limen.config import Config
from limen.errors import LimenError
from limen.rounds import Rounds

__all__ = ["Trail"]

_EVERY_S: Final = 2.0
_LAST_S: Final = 2.0
_LOOK_S: Final = 0.1


class Trail:
    """Where a process tells what happened; tells nobody while ``audit.host`` is not set.

    Parameters
    ----------
    process
        ``scp`` or ``worker``.
    """

    def __init__(self, config: Config, process: str) -> None:
        audit = config.audit
        self._process = process
        self._ae_title = config.scp.ae_title
        self.is_on = bool(audit.host)
        self._notes = Notes(config.audit_dir, audit.max_waiting)

        def connect() -> Line:
            return Line(
                audit.host,
                audit.port,
                tls=audit.tls,
                ca_file=audit.ca_file,
                certificate_file=audit.certificate_file,
                key_file=audit.key_file,
                timeout_s=audit.timeout_s,
            )

        source = Source(audit.source_id or config.node.name, audit.site_id, socket.gethostname())
        self._sender = Sender(self._notes, connect, source)
        self._rounds = Rounds("audit", self._sender.round, _EVERY_S)

    def start(self) -> None:
        """Say that the process has started, and begin to send."""
        if self.is_on:
            self.record(Kind.STARTED)
            self._rounds.start()

    def record(self, kind: Kind, **more: Any) -> None:
        """Note an event, with what ``Event`` says of it. Never raises."""
        if not self.is_on:
            return
        now = datetime.now(UTC)
        self._notes.add(
            Event(kind, now, self._process, os.getpid(), ae_title=self._ae_title, **more)
        )
        self._rounds.ring()

    def stop(self) -> None:
        """Say that the process ends, send what can be sent at once, and hang up."""
        if not self.is_on:
            return
        self.record(Kind.STOPPED)
        if self._rounds.stop():
            self._last_round()

    def _last_round(self) -> None:
        deadline = time.monotonic() + _LAST_S
        with contextlib.suppress(LimenError, OSError):  # who starts next sends what stays
            # Whoever sends may be about to end too: its turn is taken over then.
            while not self._sender.round() and time.monotonic() < deadline:
                if not self._notes.waiting():
                    break
                time.sleep(_LOOK_S)
        self._sender.close()
