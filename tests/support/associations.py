"""Peers that no library would be: crafted C-STORE commands and raw sockets."""

from __future__ import annotations

import socket
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from limen.command.send import Peer
from tests.support import wire
from tests.support.samples import encode


def associate(peer: Peer, calling: str = "CT1", *, sop_class: str = CTImageStorage) -> Association:
    """Open an association for one storage class; the caller releases it."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    return ae.associate(peer.host, peer.port, ae_title=peer.ae_title)


def store(
    assoc: Association, ds: Dataset | bytes, sop_uid: str, sop_class: str = CTImageStorage
) -> Dataset:
    """Send a C-STORE whose command says what the test says; return the answer's status."""
    answer = _answer(assoc, ds if isinstance(ds, bytes) else encode(ds), sop_uid, sop_class)
    found = Dataset()
    found.Status = answer.Status
    found.ErrorComment = getattr(answer, "ErrorComment", None) or ""
    return found


def ask(assoc: Association, body: bytes, sop_uid: str, sop_class: str) -> int | None:
    """Send a C-STORE that may be answered by nothing; return the status, None without one."""
    answer = _answer(assoc, body, sop_uid, sop_class)
    return None if answer is None else int(answer.Status)


def _answer(assoc: Association, body: bytes, sop_uid: str, sop_class: str) -> Any:
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = sop_class
    request.AffectedSOPInstanceUID = sop_uid
    request.Priority = 2
    request.DataSet = BytesIO(body)
    # What Association.send_c_store does, less its own reading of the data set.
    assoc._reactor_checkpoint.clear()
    assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id)
    _, answer = assoc.dimse.get_msg(block=True)
    assoc._reactor_checkpoint.set()
    return answer


def connect(peer: Peer, timeout_s: float = 10.0) -> socket.socket:
    """Open a TCP connection and say nothing."""
    return socket.create_connection((peer.host, peer.port), timeout_s)


def associate_rq(called: bytes = b"LIMEN", calling: bytes = b"CT1") -> bytes:
    """Return an A-ASSOCIATE-RQ PDU for Verification (PS3.8 9.3.2)."""
    verification = wire.Context(1, wire.VERIFICATION, (wire.IMPLICIT,))
    return wire.associate([verification], called=called, calling=calling)


def is_dropped(sock: socket.socket) -> bool:
    """Whether the other side ends the connection before the socket's timeout."""
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def kept_files(spool: Path) -> list[Path]:
    """Return every file of a spool."""
    return sorted(p for p in spool.rglob("*") if p.is_file())
