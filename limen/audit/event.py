"""One auditable event, and how it is noted on the disk: a JSON object.

The results server, which imports nothing of ours, writes the same object (web/results/audit.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from limen.errors import Unreadable

__all__ = ["FAILED", "SUCCEEDED", "Event", "Kind"]

SUCCEEDED: Final = 0
"""Of ``outcome``: PS3.15 A.5.1, EventOutcomeIndicator."""
FAILED: Final = 8
"""Serious failure: the action was ended."""


class Kind(StrEnum):
    """What happened; each is a message of PS3.15 A.5.3."""

    STARTED = "started"
    """Application Activity (A.5.3.1): a process of the node begins to work."""
    STOPPED = "stopped"
    """Application Activity (A.5.3.1): it ends."""
    RECEIVED = "received"
    """DICOM Instances Transferred (A.5.3.7): an association brought instances of a study."""
    SENDING = "sending"
    """Begin Transferring DICOM Instances (A.5.3.3): results are about to go to a PACS."""
    SENT = "sent"
    """DICOM Instances Transferred (A.5.3.7): they are there."""
    EXPORTED = "exported"
    """Data Export (A.5.3.4): a result went to the results server or to a bucket."""
    VIEWED = "viewed"
    """DICOM Instances Accessed (A.5.3.6): somebody looked at a study."""
    LOGGED_IN = "logged-in"
    """User Authentication (A.5.3.12), Login."""
    LOGGED_OUT = "logged-out"
    """User Authentication (A.5.3.12), Logout."""
    REJECTED = "rejected"
    """Security Alert (A.5.3.11), Node Authentication: a peer was not let in."""
    DEPLOYED = "deployed"
    """Security Alert (A.5.3.11), Software Configuration: another version of a model serves."""
    ORDERED = "ordered"
    """Security Alert (A.5.3.11), Use of Restricted Function: dead work is retried or discarded."""
    DROPPED = "dropped"
    """Security Alert (A.5.3.11), Audit Recording Started: messages before it were dropped."""


@dataclass(frozen=True, slots=True)
class Event:
    """What is told of an event. What does not belong to its kind is empty.

    Attributes
    ----------
    at
        When it happened; UTC.
    process
        Whose event it is: ``scp``, ``worker`` or ``web``, as in the logs.
    pid
        Its process ID.
    outcome
        ``SUCCEEDED``, or how badly it went (PS3.15 A.5.1): 4, 8 or 12.
    ae_title
        Of this node, where the event is one of DICOM.
    user
        Account name of a person.
    peer
        AE title of the other side; host name of a receiver that was asked for something.
    address
        Its IP address or host name.
    uri
        Where something was exported to.
    instances
        SOP Class UID -> how many.
    reason
        Why a peer was rejected, or what became of a version: names no patient. Why somebody asked
        for something: their words.
    asked
        What for: the action and the key of the work.
    count
        How many messages were dropped.
    subject
        Model and version that were deployed or taken back.
    """

    kind: Kind
    at: datetime
    process: str
    pid: int = 0
    outcome: int = SUCCEEDED
    ae_title: str = ""
    user: str = ""
    peer: str = ""
    address: str = ""
    uri: str = ""
    study_uid: str = ""
    accession: str = ""
    patient_id: str = ""
    instances: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    asked: str = ""
    count: int = 0
    subject: str = ""

    def to_json(self) -> bytes:
        """Return the note."""
        tree = {k: v for k, v in asdict(self).items() if v or k == "outcome"}
        return json.dumps(tree | {"at": self.at.astimezone(UTC).isoformat()}).encode()

    @classmethod
    def from_json(cls, body: bytes) -> Event:
        """Read a note.

        Raises
        ------
        Unreadable
            It is none.
        """
        try:
            tree: dict[str, Any] = json.loads(body)
            at = datetime.fromisoformat(tree.pop("at"))
            made = cls(kind=Kind(tree.pop("kind")), at=at.astimezone(UTC), **tree)
            for one in fields(cls)[3:]:
                if type(getattr(made, one.name)) is not type(_EXAMPLE[one.name]):
                    raise TypeError(one.name)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise Unreadable(f"a note of the audit trail cannot be read ({exc!r})") from exc
        return made


_EXAMPLE: Final = asdict(Event(Kind.STARTED, datetime(2000, 1, 1, tzinfo=UTC), ""))
