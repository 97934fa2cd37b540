"""The journal of systemd: entries with fields, by its native protocol.

An entry is one datagram of lines ``FIELD=value`` (systemd.io/JOURNAL_NATIVE_PROTOCOL). Its harder
parts, values with line ends and entries larger than a datagram, do not occur: values are escaped
and short (``logs.lines``). That is why no library and no libsystemd is needed for it.
"""

from __future__ import annotations

import logging
import socket
import sys
from typing import Final

from structlog.typing import EventDict, WrappedLogger

__all__ = ["ADDRESS", "JournalHandler", "JournalRenderer"]

ADDRESS: Final = "/run/systemd/journal/socket"
_PATIENCE_S: Final = 1.0
# Of syslog(3), which journald and `journalctl -p` use.
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


class JournalRenderer:
    """Makes the text of an entry: MESSAGE is the line for people, LIMEN_<NAME> each field.

    Parameters
    ----------
    name
        What ``journalctl -t`` selects by: SYSLOG_IDENTIFIER.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> str:
        """Return the lines of the entry."""
        level, what = str(event.pop("level", "info")), event.pop("event", "")
        event.pop("timestamp", None)  # the journal has its own
        shown = "".join(f" {key}={_quoted(value)}" for key, value in sorted(event.items()))
        fields = {
            "MESSAGE": f"{what}{shown}",
            "PRIORITY": _PRIORITIES.get(level, 6),
            "SYSLOG_IDENTIFIER": self._name,
            "LIMEN_EVENT": what,
            **{f"LIMEN_{key.upper()}": value for key, value in event.items()},
        }
        return "".join(f"{key}={value}\n" for key, value in fields.items())


class JournalHandler(logging.Handler):
    """Sends entries to the journal; while it is away their MESSAGE goes to standard error."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_PATIENCE_S)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one entry."""
        entry = self.format(record)
        try:
            self._socket.sendto(entry.encode(), self._address)
        except OSError:
            message = entry.split("\n", maxsplit=1)[0].removeprefix("MESSAGE=")
            sys.stderr.write(f"{message}\n")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if not text or set(text) & set(" =\"'") else text
