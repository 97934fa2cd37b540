"""C-STORE and C-ECHO: one call each, and the map from errors to status values.

===========  ==========================================================================
0x0000       kept: the bytes are on the disk
0xA700       no space, the disk failed, or the journal is not keeping up
0xA900       the data set is not the SOP class or instance that the command names
0xC000       the data set cannot be understood
===========  ==========================================================================

PS3.4 Table B.2-1; the Error Comment (0000,0902) says what happened in at most 64 characters.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import structlog
from pydicom.dataset import Dataset
from pynetdicom.events import Event

from limen.errors import LimenError, Permanent, Transient, Unreadable
from limen.journal import NewInstance, utc_now
from limen.telemetry import METRICS
from limen.uids import key_of
from scp.spool import Identity, Kept, Spool

__all__ = ["Intake", "StoreHandler", "new_instance"]

log = structlog.get_logger("scp.store")

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
_COMMENT_LENGTH = 64


class Intake(Protocol):
    """Where kept instances are reported."""

    def add(self, instance: NewInstance, association: int) -> None:
        """Take one kept instance; raises ``Busy`` when it cannot."""


class Mismatch(Permanent):
    """The data set is not what the command announced."""


class StoreHandler:
    """Answers C-STORE requests."""

    def __init__(self, spool: Spool, intake: Intake, max_instance_bytes: int) -> None:
        self._spool = spool
        self._intake = intake
        self._max_instance_bytes = max_instance_bytes

    def __call__(self, event: Event) -> Dataset:
        """Keep the instance of a request and return its status (EVT_C_STORE)."""
        peer = str(event.assoc.requestor.ae_title).strip()
        try:
            self._store(event, peer)
        except LimenError as exc:
            return _answer(_status(exc), str(exc), peer)
        except Exception as exc:  # the edge: no fault of ours may pass for Success
            log.error("store.fault", peer=peer, exc_info=True)
            return _answer(CANNOT_UNDERSTAND, f"internal fault ({type(exc).__name__})", peer)
        METRICS.instances.labels("0x0000").inc()
        return _status_set(SUCCESS, "")

    def _store(self, event: Event, peer: str) -> None:
        request = event.request
        data_set = request.DataSet.getvalue()
        if len(data_set) > self._max_instance_bytes:
            raise Unreadable("instance is larger than scp.max_instance_bytes")
        syntax = str(event.context.transfer_syntax)
        identity = Identity.of(data_set, syntax)
        if identity.sop_uid != str(request.AffectedSOPInstanceUID):
            raise Mismatch("SOP Instance UID differs between command and data set")
        if identity.sop_class_uid != str(request.AffectedSOPClassUID):
            raise Mismatch("SOP Class UID differs between command and data set")
        if identity.sop_class_uid != str(event.context.abstract_syntax):
            raise Mismatch("SOP Class UID is not that of the presentation context")
        kept = self._spool.keep(identity, data_set, syntax, peer)
        METRICS.received_bytes.inc(kept.size_bytes)
        self._intake.add(new_instance(identity, kept, syntax, peer, utc_now()), id(event.assoc))


def new_instance(
    identity: Identity, kept: Kept, transfer_syntax: str, peer: str, at: datetime
) -> NewInstance:
    """Return the journal row of a kept instance."""
    return NewInstance(
        study_key=key_of(identity.study_uid),
        sop_key=key_of(identity.sop_uid),
        digest=kept.digest,
        study_uid=identity.study_uid,
        series_uid=identity.series_uid,
        sop_uid=identity.sop_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax=transfer_syntax,
        path=kept.path,
        size_bytes=kept.size_bytes,
        peer=peer,
        received_at=at,
    )


def _status(error: LimenError) -> int:
    if isinstance(error, Transient):
        return OUT_OF_RESOURCES
    return MISMATCH if isinstance(error, Mismatch) else CANNOT_UNDERSTAND


def _answer(status: int, comment: str, peer: str) -> Dataset:
    METRICS.instances.labels(f"0x{status:04X}").inc()
    log.warning("store.refused", peer=peer, status=f"0x{status:04X}", reason=comment)
    return _status_set(status, comment)


def _status_set(status: int, comment: str) -> Dataset:
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment[:_COMMENT_LENGTH]
    return answer
