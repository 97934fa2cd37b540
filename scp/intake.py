"""The intake: where associations report what they keep, are asked and refuse."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from limen.instance import CommitmentReport, NewCommitment, NewInstance
from limen.uids import key_of
from scp.header import Identity
from scp.spool import Kept

__all__ = ["Intake", "new_instance"]


class Intake(Protocol):
    """Where kept instances are reported, and what is refused is counted."""

    def add(self, instance: NewInstance, association: int) -> None:
        """Take one kept instance, and count its Success; raises ``Busy`` when it cannot."""

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Keep a request for storage commitment; raises ``LimenError`` when it cannot."""

    def reported(self, report: CommitmentReport) -> bool:
        """Take what a peer says to a request of ours; return whether there was one.

        Raises ``LimenError`` when it cannot.
        """

    def refused(self, status: int, reason: str) -> None:
        """Count an answer to C-STORE that is not Success; of reasons there are a few."""

    def took(self, receiving_s: float, keeping_s: float) -> None:
        """Measure an answer to C-STORE: to the last byte of its data set, and from there on."""

    def not_kept(self, association: int, status: int, comment: str) -> None:
        """Note what an association was refused, beside what it brings."""

    def rejected(self, reason: str, peer: str, address: str) -> None:
        """Count an association that was refused; ``peer`` is how it called itself, if it did."""


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
        accession=identity.accession,
        received_at=at,
        is_result=identity.is_result,
    )
