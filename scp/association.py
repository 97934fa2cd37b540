"""Associations: pynetdicom's acceptor with the limits that it leaves out.

pynetdicom reads a PDU of any length into memory, waits on a silent peer for ever, and takes its
thread before it counts. Here an address is checked and counted before a thread starts, a socket
read has a deadline, a PDU has a largest length, and acknowledgements go out at once (a sender with
Nagle's algorithm on otherwise stalls 40 ms an instance).
"""

from __future__ import annotations

import socket
import time
from typing import Any

import structlog
from pynetdicom.events import Event
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from limen.config import Scp
from limen.telemetry import METRICS
from scp.guard import Guard

__all__ = ["GuardedServer", "on_connection", "on_requested"]

log = structlog.get_logger("scp.association")
_ASSOCIATE_LIMIT_BYTES = 1 << 20
_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class GuardedServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Refuses strangers and crowds before pynetdicom spends two threads on them."""

    # Set by ``scp.server`` before the first connection.
    guard: Guard
    settings: Scp

    daemon_threads = True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Return whether a connection goes on to a thread of its own."""
        if not self.guard.admits_address(client_address[0]):
            return self._refuse("address", client_address[0])
        if len(self.active_associations) >= self.settings.max_associations:
            return self._refuse("too many associations", client_address[0])
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a fault of one connection; the default would print a traceback."""
        log.warning("association.fault", address=client_address[0], exc_info=True)

    def _refuse(self, reason: str, address: str) -> bool:
        METRICS.rejected.labels(reason).inc()
        log.warning("connection.refused", reason=reason, address=address)
        return False


def on_connection(event: Event, settings: Scp) -> None:
    """Put deadlines and a largest PDU on a fresh connection (EVT_CONN_OPEN)."""
    wrapper: AssociationSocket = event.assoc.dul.socket
    wrapper.socket.settimeout(settings.pdu_timeout_s)
    wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    limit = max(settings.max_pdu_bytes, _ASSOCIATE_LIMIT_BYTES)

    def recv(nr_bytes: int) -> bytearray:
        if nr_bytes > limit:
            raise OSError(f"PDU of {nr_bytes} bytes is over the limit of {limit}")
        return _receive(wrapper.socket, nr_bytes, settings.pdu_timeout_s)

    wrapper.recv = recv


def on_requested(event: Event, guard: Guard) -> None:
    """Reject an association that the guard refuses (EVT_REQUESTED)."""
    request = event.assoc.requestor.primitive
    calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
    address = event.assoc.requestor.address
    refusal = guard.refusal(calling, called, address)
    if refusal is None:
        return
    METRICS.rejected.labels(refusal.reason).inc()
    log.warning(
        "association.rejected",
        reason=refusal.reason,
        peer=calling,
        address=address,
        count=len(request.presentation_context_definition_list),
    )
    event.assoc.acse.send_reject(*refusal.code)
    event.assoc.kill()


def _receive(sock: socket.socket, nr_bytes: int, timeout_s: float) -> bytearray:
    """Read exactly ``nr_bytes``, or fewer when the peer closes; all of them within the time.

    A deadline for each read alone would let a peer hold on to us with one byte now and then.
    """
    data = bytearray(nr_bytes)
    view, got = memoryview(data), 0
    deadline = time.monotonic() + timeout_s
    try:
        while got < nr_bytes:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            count = sock.recv_into(view[got:])
            if _QUICKACK is not None:
                sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            if count == 0:
                return data[:got]
            got += count
            if got < nr_bytes and time.monotonic() > deadline:
                raise TimeoutError(f"PDU did not arrive within {timeout_s:g} s")
    finally:
        sock.settimeout(timeout_s)
    return data
