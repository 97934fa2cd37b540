"""Syslog as the collector wants it: RFC 5424 messages, each behind its length, by TLS (RFC 5425).

PS3.15 A.6 asks for this transport; syslog has no answers, so that a message was read is seen
from the connection: TCP has its bytes, and the other side has not gone since.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import ssl
import struct
import termios
from datetime import datetime
from pathlib import Path
from typing import Final

from limen.errors import ConfigError, Unreachable

__all__ = ["Line", "frame"]

_PRIORITY: Final = 10 * 8  # facility 10: security and authorization
_NOTICE, _WARNING = 5, 4
_MSGID: Final = "DICOM+RFC3881"  # PS3.15 A.6
_BOM: Final = b"\xef\xbb\xbf"  # RFC 5424 6.4: what follows is UTF-8


def frame(body: bytes, *, at: datetime, host: str, app: str, pid: int, succeeded: bool) -> bytes:
    """Return one message with its length before it (RFC 5425 4.3).

    Parameters
    ----------
    body
        UTF-8.
    """
    severity = _NOTICE if succeeded else _WARNING
    time = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    words = (_word(host, 255), _word(app, 48), str(pid) if pid else "-", _MSGID, "-")
    head = f"<{_PRIORITY + severity}>1 {time} {' '.join(words)} "
    message = head.encode("ascii") + _BOM + body
    return b"%d %s" % (len(message), message)


def _word(text: str, longest: int) -> str:
    """Return a field of the header: printable ASCII without spaces (RFC 5424 6)."""
    return re.sub(r"[^!-~]", "_", text)[:longest] or "-"


class Line:
    """A connection to the collector.

    Parameters
    ----------
    tls
        Whether it speaks TLS 1.2 or 1.3; without, only for a collector on this machine.
    ca_file
        Who signed the certificate of the collector; None for the authorities of this machine.
    certificate_file, key_file
        Who we are, for a collector that asks.
    timeout_s
        For the connection, the handshake and each message.

    Raises
    ------
    Unreachable
        It does not answer, or is not who it should be.
    ConfigError
        A file of the certificates cannot be read.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool,
        ca_file: Path | None,
        certificate_file: Path | None,
        key_file: Path | None,
        timeout_s: float,
    ) -> None:
        self._timeout_s = timeout_s
        context = _context(ca_file, certificate_file, key_file) if tls else None
        try:
            sock = socket.create_connection((host, port), timeout_s)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._sock = context.wrap_socket(sock, server_hostname=host) if context else sock
        except OSError as exc:  # ssl.SSLError is one
            raise Unreachable(f"the audit collector {host}:{port} cannot be used: {exc}") from exc

    def send(self, data: bytes) -> None:
        """Send bytes.

        Raises
        ------
        Unreachable
            The connection is lost.
        """
        try:
            self._sock.settimeout(self._timeout_s)
            self._sock.sendall(data)
        except OSError as exc:
            raise Unreachable(f"the audit collector went away ({type(exc).__name__})") from exc

    def is_open(self) -> bool:
        """Whether the collector has not hung up."""
        self._sock.setblocking(False)
        try:
            return self._sock.recv(4096) != b""  # a collector has nothing to say
        except (ssl.SSLWantReadError, BlockingIOError):
            return True
        except OSError:
            return False

    def is_delivered(self) -> bool:
        """Whether TCP of the other side has acknowledged every byte."""
        waiting = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, struct.pack("i", 0))
        return int(struct.unpack("i", waiting)[0]) == 0

    def close(self) -> bool:
        """Say goodbye; return whether the collector has read everything before it hung up.

        Its end of the connection is closed without a reset only when nothing was left unread.
        """
        try:
            self._sock.settimeout(self._timeout_s)
            if isinstance(self._sock, ssl.SSLSocket):
                with contextlib.suppress(ssl.SSLError):  # many hang up without a goodbye
                    self._sock = self._sock.unwrap()
            self._sock.shutdown(socket.SHUT_WR)
            while self._sock.recv(4096):
                pass
            return True
        except OSError:
            return False
        finally:
            self._sock.close()

    def drop(self) -> None:
        """Close without a goodbye."""
        self._sock.close()


def _context(
    ca_file: Path | None, certificate_file: Path | None, key_file: Path | None
) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=os.fspath(ca_file) if ca_file else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"certificates of [audit] cannot be used ({exc}); look at audit.ca_file, "
            "audit.certificate_file and audit.key_file"
        ) from exc
    return context
