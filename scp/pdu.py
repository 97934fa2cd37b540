"""PDUs on a socket (PS3.8 9.3): read under a cap and a deadline, written in pieces the peer takes.

A ``Stream`` never holds more than its buffer. The length of a PDU is compared with its cap before a
byte of it is received, and whoever reads takes the bytes from the buffer as they come: a data set
of any size passes through without being gathered.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time

__all__ = [
    "ABORT",
    "ASSOCIATE_AC",
    "ASSOCIATE_LIMIT_BYTES",
    "ASSOCIATE_RJ",
    "ASSOCIATE_RQ",
    "P_DATA",
    "RELEASE_RP",
    "RELEASE_RQ",
    "Closed",
    "Malformed",
    "Overdue",
    "Stream",
    "abort_pdu",
    "data_pdus",
    "reject_pdu",
    "release_pdu",
]

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
ASSOCIATE_LIMIT_BYTES = 1 << 20

_SMALL_BYTES = 4096  # all that an association without a data set ever needs
_LARGE_BYTES = 256 * 1024
_HEADER = struct.Struct(">BxI")
_PDV = struct.Struct(">IBB")
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Closed(ConnectionError):
    """The peer ended the connection."""


class Overdue(TimeoutError):
    """The bytes did not come in time, or the peer does not take ours."""


class Malformed(Exception):
    """The bytes are not what PS3.8 allows; ``reason`` is that of A-ABORT (PS3.8 9.3.8)."""

    def __init__(self, text: str, reason: int = 6) -> None:
        super().__init__(text)
        self.reason = reason


class Stream:
    """The bytes of one connection.

    Deadlines are readings of ``time.monotonic``: whatever a peer sends now and then, all that was
    asked for has to be there by then.

    Parameters
    ----------
    sock
        A connected socket, or one wrapped by ``ssl``.
    """

    __slots__ = ("_buffer", "_end", "_readable", "_sock", "_start", "_view")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)  # what has come is taken at once; waiting is for ``poll``
        self._sock = sock
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._buffer = bytearray(_SMALL_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def wait(self, deadline: float) -> None:
        """Return when there is something to read, without reading it.

        Raises
        ------
        Overdue
            Nothing came.
        """
        if self._end > self._start:
            return
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return
        _until(self._readable, deadline)

    def header(self, deadline: float) -> tuple[int, int]:
        """Read the head of a PDU: its type, and the length of what follows."""
        self._need(6, deadline)
        kind, length = _HEADER.unpack_from(self._buffer, self._start)
        self._start += 6
        return kind, length

    def pdv(self, deadline: float) -> tuple[int, int, int]:
        """Read the head of a PDV: length of its fragment, context id, control header (PS3.8 E)."""
        self._need(6, deadline)
        length, context_id, control = _PDV.unpack_from(self._buffer, self._start)
        self._start += 6
        return length - 2, context_id, control

    def take(self, limit: int, deadline: float) -> memoryview:
        """Return what has come, at least one byte and at most ``limit``.

        The view holds until the next call; memory is that of the buffer.
        """
        if self._start == self._end:
            if limit > len(self._buffer) and len(self._buffer) < _LARGE_BYTES:
                self._grow()
            self._receive(deadline)
        start = self._start
        self._start = end = min(self._end, start + limit)
        return self._view[start:end]

    def read(self, length: int, deadline: float) -> bytes:
        """Return exactly ``length`` bytes, gathered as they come; the caller has capped it."""
        gathered = bytearray()
        while len(gathered) < length:
            gathered += self.take(length - len(gathered), deadline)
        return bytes(gathered)

    def send(self, data: bytes, deadline: float) -> None:
        """Send everything, or raise ``Overdue``. Another thread may be in ``wait``."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._until(select.POLLOUT, deadline)
            except ssl.SSLWantReadError:
                self._until(select.POLLIN, deadline)

    def linger(self, deadline: float) -> None:
        """Say that nothing more comes, and wait until the peer hangs up.

        Closing at once with bytes unread would reset the connection, and the peer might never see
        the PDU that was sent last.
        """
        with contextlib.suppress(OSError, ValueError):
            # Of the connection below TLS: SSLSocket.shutdown would end the reading too.
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            self._start = self._end = 0
            while time.monotonic() < deadline:
                self._receive(deadline)
                self._start = self._end = 0

    def close(self) -> None:
        """Close the connection and let the buffer go."""
        with contextlib.suppress(OSError):
            self._sock.close()
        self._view.release()
        self._buffer = bytearray()

    def _need(self, count: int, deadline: float) -> None:
        while self._end - self._start < count:
            if self._start + count > len(self._buffer):
                rest = bytes(self._view[self._start : self._end])
                self._view[: len(rest)] = rest
                self._start, self._end = 0, len(rest)
            self._receive(deadline)

    def _receive(self, deadline: float) -> None:
        if self._start == self._end:
            self._start = self._end = 0
        room = self._view[self._end :]
        count = -1
        while count < 0:
            if time.monotonic() >= deadline:
                raise Overdue
            try:
                count = self._sock.recv_into(room)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._acknowledge()
                _until(self._readable, deadline)
            except ssl.SSLWantWriteError:
                self._until(select.POLLOUT, deadline)
        if not count:
            raise Closed
        self._end += count

    def _acknowledge(self) -> None:
        """Acknowledge before waiting.

        A sender with Nagle's algorithm on does not send the rest before, with TLS not even that of
        a record.
        """
        if _QUICKACK is not None:
            self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _until(self, wanted: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._sock, wanted)
        _until(poll, deadline)

    def _grow(self) -> None:
        """Take the large buffer; only called when nothing is left in the small one."""
        self._view.release()
        self._buffer = bytearray(_LARGE_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0


def _until(poll: select.poll, deadline: float) -> None:
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise Overdue


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return bytes([ASSOCIATE_RJ, 0, 0, 0, 0, 4, 0, result, source, reason])


def release_pdu() -> bytes:
    """Return an A-RELEASE-RP (PS3.8 9.3.7)."""
    return bytes([RELEASE_RP, 0, 0, 0, 0, 4, 0, 0, 0, 0])


def abort_pdu(source: int, reason: int) -> bytes:
    """Return an A-ABORT (PS3.8 9.3.8); source 0 is the service user, 2 the provider."""
    return bytes([ABORT, 0, 0, 0, 0, 4, 0, 0, source, reason if source else 0])


def data_pdus(context_id: int, command: bytes, data_set: bytes, peer_max_bytes: int) -> bytes:
    """Return a message as P-DATA-TF PDUs (PS3.8 9.3.5), one fragment each.

    Parameters
    ----------
    data_set
        Empty: the message has none.
    peer_max_bytes
        Largest PDU that the peer takes; 0: any.
    """
    room = max(1, peer_max_bytes - 6) if peer_max_bytes else 1 << 16
    out = bytearray()
    for body, kind in ((command, 1), (data_set, 0)):
        for start in range(0, len(body), room):
            piece = body[start : start + room]
            control = kind | (2 if start + room >= len(body) else 0)
            out += _HEADER.pack(P_DATA, len(piece) + 6)
            out += _PDV.pack(len(piece) + 2, context_id, control)
            out += piece
    return bytes(out)
