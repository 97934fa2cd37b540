"""The process that serves, made safe from clients that are slow: no thread waits for one.

Gunicorn's threads read a request from the socket, without a deadline: as many clients as there are
threads, who send a byte now and then, stop the server for everybody. Here the loop that accepts
gathers the request, and a thread gets it once it is whole: head and body, up to what a page may
send. Only the body of a result is larger; it is read by its thread, once its token is known, at a
pace (web/results/middleware.py turns other large bodies away).

Built on parts of gunicorn's worker that are not promised to stay: pyproject.toml holds its version.
"""

from __future__ import annotations

import errno
import re
import selectors
import socket
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers.gthread import TConn, ThreadWorker

from web.results.middleware import SMALL_BODY_BYTES

__all__ = ["CONNECTIONS", "HEAD_BYTES", "WHOLE_S", "GuardedWorker"]

# All of a head; gunicorn's own limits hold for a line and a field.
HEAD_BYTES = 64 << 10
# From the first chance to send something to the last byte of a small request.
WHOLE_S = 10.0
CONNECTIONS = 600
# Of those, the ones that have not sent a whole request; a new one lets the oldest go.
WAITING = 400
# A large body: silence, and the slowest pace after a start.
SILENCE_S = 15.0
START_S = 20.0
PACE_BYTES_S = 32 << 10
# What a client takes to read one piece of an answer.
READ_S = 15.0
# A closed connection waits so long for the client to read the end of its answer.
PARTING_S = 2.0
PARTING = 200

_LENGTH = re.compile(rb"\r\ncontent-length[ \t]*:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding[ \t]*:", re.IGNORECASE)
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\nContent-Length: 0\r\n\r\n"
)


class _PacedReader(SocketUnreader):
    """Reads what a thread waits for, and gives up on who is slower than the pace."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.restart()

    def restart(self) -> None:
        """Begin with another request."""
        self._began = time.monotonic()
        self._received = 0

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes.

        Raises
        ------
        ConnectionResetError
            They come too slowly.
        """
        end = self._began + START_S + self._received / PACE_BYTES_S
        left = end - time.monotonic()
        if left <= 0:
            raise _too_slow()
        self.sock.settimeout(min(left, SILENCE_S))
        try:
            data = super().chunk(size_hint)
        except TimeoutError as exc:
            raise _too_slow() from exc
        finally:
            self.sock.settimeout(READ_S)
        self._received += len(data)
        return bytes(data)


def _too_slow() -> ConnectionResetError:
    # Gunicorn takes this for a client that left: no traceback in the log for each.
    return ConnectionResetError(errno.ECONNRESET, "the client is too slow")


class _Connection(TConn):
    """A client, and what it has sent of its next request."""

    def __init__(self, worker: GuardedWorker, sock: socket.socket, client: Any, server: Any):
        super().__init__(worker.cfg, sock, client, server)
        self.gathered = bytearray()
        self.has_body = False
        self._worker = worker
        self._needed = 0

    def init(self) -> None:
        """Hand what was gathered to the parser; called by the thread, for every request."""
        super().init()
        if not isinstance(self.parser.unreader, _PacedReader):
            self.parser.unreader = _PacedReader(self.sock)
        self.parser.unreader.restart()
        self.parser.unreader.unread(bytes(self.gathered))
        self.gathered.clear()
        self._needed = 0
        self.sock.settimeout(READ_S)

    @property
    def is_too_large(self) -> bool:
        """Tell whether there is no end of the head where it should be."""
        return not self._needed and len(self.gathered) > HEAD_BYTES

    def is_whole(self) -> bool:
        """Tell whether a thread can work on the request without waiting for the client."""
        if not self._needed:
            begins = len(self.gathered) - len(self.gathered.lstrip(b"\r\n"))
            end = self.gathered.find(b"\r\n\r\n", begins)
            if end < 0 or end > HEAD_BYTES:
                return False
            length = _small_body(bytes(self.gathered[: end + 2]))
            self.has_body = length > 0
            self._needed = end + 4 + length
        return len(self.gathered) >= self._needed

    def close(self, graceful: bool = False) -> None:
        """Close, at once or when the client has read the answer; nobody waits for that."""
        if graceful:
            self._worker.part(self.sock)
        else:
            super().close()


def _small_body(head: bytes) -> int:
    """Return the length of a body that is gathered, 0 for one that a thread reads."""
    length = _LENGTH.search(head)
    if length is None or _CHUNKED.search(head):
        return 0
    wanted = int(length[1])
    return wanted if wanted <= SMALL_BODY_BYTES else 0


class GuardedWorker(ThreadWorker):
    """Gathers requests in its loop and answers whole ones in its threads."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._parting: deque[tuple[float, socket.socket]] = deque()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, and let go of the one that has said nothing for longest."""
        try:
            sock, client = listener.accept()
        except OSError as exc:
            if exc.errno not in {errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK}:
                raise
            return
        self.nr_conns += 1
        while len(self.pending_conns) >= WAITING:
            self._drop(self.pending_conns[0])
        self._gather(_Connection(self, sock, client, listener.getsockname()))

    def _gather(self, conn: _Connection) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + WHOLE_S
        self.pending_conns.append(conn)
        self.poller.register(
            conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn)
        )

    def on_pending_socket_readable(self, conn: _Connection, client: socket.socket) -> None:
        """Gather what came; hand a whole request to a thread."""
        try:
            data = client.recv(HEAD_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        conn.gathered += data
        if not data:
            self._drop(conn)
        elif conn.is_whole():
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            conn.data_ready = True
            self.enqueue_req(conn)
        elif conn.is_too_large:
            self._refuse(conn)

    def on_client_socket_readable(self, conn: _Connection, client: socket.socket) -> None:
        """Gather the next request of a connection that was kept."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._gather(conn)

    def _refuse(self, conn: _Connection) -> None:
        try:
            conn.sock.send(_TOO_LARGE)
        except OSError:
            self.log.debug("a client left before its answer")
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)
        self.nr_conns -= 1
        conn.close(graceful=True)

    def _drop(self, conn: _Connection) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def handle_request(self, req: Any, conn: _Connection) -> bool:
        """Answer; who does not read the answer is let go."""
        try:
            return bool(super().handle_request(req, conn))
        except TimeoutError as exc:
            raise _too_slow() from exc

    def _keepalive_after(self, conn: _Connection, keepalive: bool) -> bool:
        """Keep a connection only between whole requests.

        A body that nobody read is not waited for, unless it is here already, and what was sent
        behind a request is not the beginning of another one.
        """
        if conn.has_body:  # gathered with its head
            conn.parser.mesg.body.read()
        reader = getattr(conn.parser.mesg.body, "reader", None)
        is_read = getattr(reader, "length", None) == 0
        return keepalive and is_read and not conn.parser.unreader.buf.getvalue()

    def finish_request(self, conn: _Connection, fs: Future[Any]) -> None:
        """Take a connection back from its thread."""
        conn.data_ready = False
        super().finish_request(conn, fs)

    def part(self, sock: socket.socket) -> None:
        """Say goodbye (RFC 9112 9.6), and close once the client has, or after two seconds.

        Closed at once, with bytes of the client unread, the end of the answer would be lost.
        """
        try:
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
            self.poller.register(sock, selectors.EVENT_READ, self._on_parting)
        except (OSError, ValueError, KeyError):
            sock.close()
            return
        self._parting.append((time.monotonic() + PARTING_S, sock))
        if len(self._parting) > PARTING:
            self._close_parting(self._parting.popleft()[1])

    def _on_parting(self, sock: socket.socket) -> None:
        try:
            left = sock.recv(HEAD_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            left = b""
        if not left:
            self._close_parting(sock)

    def _close_parting(self, sock: socket.socket) -> None:
        if sock.fileno() < 0:  # closed before its two seconds were over
            return
        self.poller.unregister(sock)
        sock.close()

    def murder_pending(self) -> None:
        """Let go of who has had its time."""
        super().murder_pending()
        now = time.monotonic()
        while self._parting and self._parting[0][0] <= now:
            self._close_parting(self._parting.popleft()[1])

    def _cap_keepalive(self, deadline: float) -> None:
        """Let a process that stops wait for nobody who has not sent a request."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)
