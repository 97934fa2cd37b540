"""The acceptor: listening sockets, and the caps that hold before a connection costs anything.

One thread accepts for every process. Who is over a cap gets an A-ASSOCIATE-RJ that was made before,
and no thread; TLS shakes hands later, in the thread of the association.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from limen.config import Scp
from limen.errors import LimenError
from limen.readiness import Sign
from limen.telemetry import METRICS
from scp.connection import Connection
from scp.guard import Guard
from scp.pdu import reject_pdu
from scp.rejections import LIMIT_EXCEEDED

__all__ = ["Acceptor", "CannotBind"]

log = structlog.get_logger("scp.acceptor")

_BACKLOG = 128
_LIMIT_EXCEEDED = reject_pdu(*LIMIT_EXCEEDED)
_LINGER_S, _LINGERING_LIMIT = 0.5, 256
_TURN_MS = 5000  # comes round at least so often: a sign of life
_EXHAUSTED_S = 0.1
_LOG_EVERY_S = 1.0
_RUNS = 1_000_000


@dataclass(slots=True)
class _Silenced:
    """Connections refused for one reason that the log was not told of; the last one's address."""

    count: int = 0
    address: str = ""
    told_s: float = float("-inf")


class CannotBind(LimenError):
    """Address or port cannot be used."""

    exit_code = 3


class Acceptor:
    """Accepts connections, counts them, and hands them on.

    Parameters
    ----------
    serve
        Takes a connection; may raise ``OSError`` or ``RuntimeError`` when it cannot.
    on_refused
        Called with the reason and the address of a refused connection, as often as it is logged.
    """

    def __init__(
        self,
        settings: Scp,
        guard: Guard,
        serve: Callable[[Connection], None],
        on_refused: Callable[[str, str], None],
    ) -> None:
        self._on_refused = on_refused
        self._settings = settings
        self._guard = guard
        self._serve = serve
        self._listening: dict[int, tuple[socket.socket, bool]] = {}
        self._wake, self._woken = socket.socketpair()
        self._stopping = False
        self._sign = Sign()
        # Of this run, so that a number in a log or in the journal stands for one association.
        self._numbers = secrets.randbelow(_RUNS) * _RUNS
        self._lock = threading.Lock()
        self._open: dict[int, str] = {}
        self._by_address: Counter[str] = Counter()
        # Refused peers that have not hung up yet: closing at once would reset the connection
        # before the reject is read.
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self._silenced: dict[str, _Silenced] = {}
        self._thread = threading.Thread(target=self._run, name="acceptor", daemon=True)

    def bind(self) -> tuple[int, int]:
        """Open the ports; return that of DICOM and that of TLS (0: closed).

        Raises
        ------
        CannotBind
            An address is in use or not of this machine.
        """
        plain = self._listen(self._settings.port, "scp.port or LIMEN_SCP__PORT", secure=False)
        secure = 0
        if self._settings.tls.port:
            secure = self._listen(self._settings.tls.port, "scp.tls.port", secure=True)
        return plain, secure

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Close the ports; connections that were handed on stay. The second time: nothing."""
        if self._stopping:
            return
        self._stopping = True
        self._wake.send(b"x")
        if self._thread.is_alive():
            self._thread.join()
        for sock, _ in self._listening.values():
            sock.close()
        while self._lingering:
            self._lingering.popleft()[1].close()
        self._wake.close()
        self._woken.close()

    def ended(self, number: int) -> None:
        """Note that a connection is over: it no longer counts."""
        with self._lock:
            address = self._open.pop(number, None)
            if address is not None:
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]
            METRICS.associations.set(len(self._open))

    def address_of(self, number: int) -> str:
        """Return where a connection came from, as long as it is open."""
        with self._lock:
            return self._open.get(number, "")

    @property
    def open_count(self) -> int:
        """Connections that were handed on and are not over."""
        with self._lock:
            return len(self._open)

    def _listen(self, port: int, key: str, *, secure: bool) -> int:
        host = self._settings.host
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            sock = socket.create_server(
                (host, port),
                family=family,
                backlog=_BACKLOG,
                dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
            )
        except OSError as exc:
            raise CannotBind(
                f"cannot listen on {host}:{port} ({exc.strerror}); "
                f"is another receiver running? Set {key}"
            ) from exc
        sock.setblocking(False)
        self._listening[sock.fileno()] = (sock, secure)
        return int(sock.getsockname()[1])

    def silent_s(self) -> float:
        """Return the seconds since the thread last looked for connections."""
        return self._sign.silent_s()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        for descriptor in self._listening:
            poll.register(descriptor, select.POLLIN)
        while not self._stopping:
            self._sign.show()
            untold = any(silenced.count for silenced in self._silenced.values())
            wait_ms = _LINGER_S * 500 if self._lingering or untold else _TURN_MS
            for descriptor, _ in poll.poll(wait_ms):
                if descriptor in self._listening:
                    self._accept(*self._listening[descriptor])
            self._let_go()
            for reason, silenced in self._silenced.items():
                self._tell_refused(reason, silenced, time.monotonic())

    def _accept(self, listening: socket.socket, secure: bool) -> None:
        try:
            sock, peer = listening.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as exc:  # out of descriptors: those that are open go on
            log.error("acceptor.exhausted", error=exc)
            time.sleep(_EXHAUSTED_S)
            return
        address = str(peer[0])
        try:
            refusal = self._refusal(address)
            if refusal is not None:
                self._refuse(sock, address, *refusal, secure=secure)
                return
            self._hand_on(sock, address, secure)
        except Exception:  # the acceptor must outlive any fault of one connection
            log.error("acceptor.fault", address=address, exc_info=True)
            sock.close()

    def _refusal(self, address: str) -> tuple[str, bool] | None:
        """Return why a connection is refused and whether it gets an answer, or None."""
        if not self._guard.admits_address(address):
            return "address", False
        with self._lock:
            if len(self._open) >= self._settings.max_associations:
                return "too many associations", True
            if self._by_address[address] >= self._settings.max_associations_per_address:
                return "too many associations of one address", True
        return None

    def _hand_on(self, sock: socket.socket, address: str, secure: bool) -> None:
        with self._lock:
            self._numbers += 1
            number = self._numbers
            self._open[number] = address
            self._by_address[address] += 1
            METRICS.associations.set(len(self._open))
        try:
            self._serve(Connection(number, sock, address, secure))
        except (OSError, RuntimeError) as exc:
            self.ended(number)
            self._refuse(sock, address, f"no thread ({type(exc).__name__})", True, secure=secure)

    def _refuse(
        self, sock: socket.socket, address: str, reason: str, answer: bool, *, secure: bool
    ) -> None:
        METRICS.rejected.labels(reason).inc()
        now = time.monotonic()
        silenced = self._silenced.setdefault(reason, _Silenced())
        silenced.count += 1
        silenced.address = address
        self._tell_refused(reason, silenced, now)
        if not answer or secure or len(self._lingering) >= _LINGERING_LIMIT:
            sock.close()
            return
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.send(_LIMIT_EXCEEDED)
            sock.shutdown(socket.SHUT_WR)
        self._lingering.append((now + _LINGER_S, sock))

    def _tell_refused(self, reason: str, silenced: _Silenced, now: float) -> None:
        """Log those that were refused since the last line, once a second: a flood fills no log."""
        if not silenced.count or now - silenced.told_s < _LOG_EVERY_S:
            return
        silenced.told_s, count, silenced.count = now, silenced.count, 0
        log.warning("connection.refused", reason=reason, address=silenced.address, count=count)
        self._on_refused(reason, silenced.address)

    def _let_go(self) -> None:
        """Close the refused whose time is over; read what they said, so that none is reset."""
        now = time.monotonic()
        while self._lingering and self._lingering[0][0] <= now:
            _, sock = self._lingering.popleft()
            with contextlib.suppress(OSError):
                sock.recv(1 << 16)
            sock.close()
