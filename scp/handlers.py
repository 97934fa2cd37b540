"""What a message leads to: C-STORE, C-ECHO, N-ACTION, and the map from errors to status values.

===========  ==========================================================================
0x0000       kept: the bytes are on the disk; or the request for commitment is
0x0110       N-ACTION: the request cannot be kept
0x0112       N-ACTION: not the well-known instance of storage commitment
0x0115       N-ACTION: its data set cannot be understood
0x0118       N-ACTION: not the SOP class of storage commitment
0x0123       N-ACTION: not its action type 1
0x0211       an operation that is not served
0xA700       no space, the disk failed, or the journal is not keeping up
0xA900       the data set is not the SOP class or instance that the command names
0xC000       the data set, or the command, cannot be understood
===========  ==========================================================================

PS3.4 Table B.2-1, PS3.7 C; the Error Comment (0000,0902) says what happened in at most 64
characters.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

import structlog

from limen.errors import LimenError, OutOfSpace, Permanent, Transient, Unreadable
from limen.instance import NewCommitment, NewInstance
from limen.uids import is_uid, key_of
from scp.dimse import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    RESPONSE,
    Answer,
    Command,
    NotACommand,
)
from scp.header import Identity
from scp.negotiation import Context
from scp.report import instances_of
from scp.sop_classes import COMMITMENT, COMMITMENT_INSTANCE
from scp.spool import Kept, Part, Spool

__all__ = ["Handlers", "Ignored", "Intake", "Sender", "Sink", "new_instance"]

log = structlog.get_logger("scp.store")

SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
UNRECOGNISED_OPERATION = 0x0211
PROCESSING_FAILURE, NO_SUCH_INSTANCE, INVALID_ARGUMENT = 0x0110, 0x0112, 0x0115
NO_SUCH_CLASS, NO_SUCH_ACTION = 0x0118, 0x0123
_REQUEST_COMMITMENT = 1  # action type (PS3.4 J.3.2)
_REQUEST_LIMIT_BYTES = 2 << 20  # 20,000 instances


class Intake(Protocol):
    """Where kept instances are reported, and what is refused is counted."""

    def add(self, instance: NewInstance, association: int) -> None:
        """Take one kept instance, and count its Success; raises ``Busy`` when it cannot."""

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Keep a request for storage commitment; raises ``LimenError`` when it cannot."""

    def refused(self, status: int) -> None:
        """Count an answer to C-STORE that is not Success."""

    def rejected(self, reason: str) -> None:
        """Count an association that was refused."""


class Sender(Protocol):
    """The association that a message came on."""

    @property
    def number(self) -> int:
        """Its number, unique in this run."""

    @property
    def peer(self) -> str:
        """Calling AE title."""

    @property
    def address(self) -> str:
        """Where it calls from."""


class Sink(Protocol):
    """Takes the data set of one message as it arrives."""

    def write(self, chunk: memoryview) -> None:
        """Take the next bytes; never fails, the answer tells."""

    def finish(self) -> Answer | None:
        """End: the data set is whole. None: there is nothing to answer."""

    def discard(self) -> None:
        """End: the rest will not come."""


class Mismatch(Permanent):
    """The data set is not what the command announced."""


class Handlers:
    """Knows what to do with each command of an association.

    Parameters
    ----------
    max_instance_bytes
        Largest data set that is kept.
    """

    def __init__(self, spool: Spool, intake: Intake, max_instance_bytes: int) -> None:
        self.spool = spool
        self.intake = intake
        self.max_instance_bytes = max_instance_bytes

    def answer(self, command: Command, context: Context, sender: Sender) -> Answer | None:
        """Serve a command without a data set.

        Raises
        ------
        NotACommand
            It cannot be answered.
        """
        if command.field == C_CANCEL_RQ:  # what it would cancel has been answered
            return None
        if command.field == C_ECHO_RQ:
            return Answer(SUCCESS)
        return self.sink(command, context, sender).finish()

    def sink(self, command: Command, context: Context, sender: Sender) -> Sink:
        """Return where the data set of a command goes.

        Raises
        ------
        NotACommand
            It cannot be answered.
        """
        if command.field == C_STORE_RQ:
            return _Arrival(self, command, context, sender)
        if command.field == N_ACTION_RQ:
            return _Asking(self, command, context, sender)
        if command.field & RESPONSE:
            raise NotACommand("a response to nothing that was asked")
        return Ignored(Answer(UNRECOGNISED_OPERATION, "this operation is not served here"))


class Ignored:
    """Lets a data set pass.

    Parameters
    ----------
    answer
        What it is answered, if at all.
    """

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer

    def write(self, chunk: memoryview) -> None:
        """Take the next bytes."""

    def finish(self) -> Answer | None:
        """End: the data set is whole."""
        return self._answer

    def discard(self) -> None:
        """End: the rest will not come."""


class _Asking:
    """One N-ACTION for storage commitment; its data set is gathered, up to a limit."""

    def __init__(
        self, handlers: Handlers, command: Command, context: Context, sender: Sender
    ) -> None:
        self._intake = handlers.intake
        self._command = command
        self._context = context
        self._sender = sender
        self._body = bytearray()
        self._fits = True

    def write(self, chunk: memoryview) -> None:
        self._fits = self._fits and len(self._body) + len(chunk) <= _REQUEST_LIMIT_BYTES
        if self._fits:
            self._body += chunk

    def discard(self) -> None:
        self._body.clear()

    def finish(self) -> Answer | None:
        answer = self._answer()
        if answer.status:
            log.warning(
                "commitment.refused",
                peer=self._sender.peer,
                status=f"0x{answer.status:04X}",
                reason=answer.comment,
            )
        return answer

    def _answer(self) -> Answer:
        refusal = self._refusal(self._command)
        if refusal is not None:
            return refusal
        try:
            transaction, pairs = instances_of(self._body, self._context.transfer_syntax)
            sender = self._sender
            asked = NewCommitment(transaction, sender.peer, sender.address, pairs)
            self._intake.ask(asked, sender.number)
        except Unreadable as exc:
            return Answer(INVALID_ARGUMENT, str(exc))
        except LimenError as exc:
            return Answer(PROCESSING_FAILURE, str(exc))
        return Answer(SUCCESS)

    def _refusal(self, command: Command) -> Answer | None:
        if {command.sop_class_uid, self._context.abstract_syntax} != {COMMITMENT}:
            return Answer(NO_SUCH_CLASS, "N-ACTION is served for storage commitment only")
        if command.sop_uid != COMMITMENT_INSTANCE:
            return Answer(NO_SUCH_INSTANCE, "not the instance 1.2.840.10008.1.20.1.1")
        if command.action != _REQUEST_COMMITMENT:
            return Answer(NO_SUCH_ACTION, "action type is not 1")
        if not self._fits:
            return Answer(INVALID_ARGUMENT, "the request is too long; ask in several")
        return None


class _Arrival:
    """One C-STORE: the data set goes to the spool while it comes; the first fault is the answer."""

    def __init__(
        self, handlers: Handlers, command: Command, context: Context, sender: Sender
    ) -> None:
        self._handlers = handlers
        self._command = command
        self._context = context
        self._sender = sender
        self._part: Part | None = None
        self._fault: LimenError | None = None
        try:
            self._part = self._begin()
        except LimenError as exc:
            self._fault = exc

    def _begin(self) -> Part:
        command, context = self._command, self._context
        if not command.has_data_set:
            raise Unreadable("C-STORE without a data set")
        for name, uid in (("Class", command.sop_class_uid), ("Instance", command.sop_uid)):
            if not is_uid(uid):
                what = "is not a UID" if uid else "is missing"
                raise Unreadable(f"Affected SOP {name} UID of the command {what}")
        if command.sop_class_uid != context.abstract_syntax:
            raise Mismatch("SOP Class UID is not that of the presentation context")
        return self._handlers.spool.begin(
            command.sop_class_uid, command.sop_uid, context.transfer_syntax, self._sender.peer
        )

    def write(self, chunk: memoryview) -> None:
        part = self._part
        if part is None:
            return
        if part.size_bytes + len(chunk) > self._handlers.max_instance_bytes:
            self._fault = Unreadable("instance is larger than scp.max_instance_bytes")
            self.discard()
            return
        try:
            part.write(chunk)
        except OutOfSpace as exc:
            self._fault = exc
            self._part = None

    def finish(self) -> Answer | None:
        try:
            self._keep()
        except LimenError as exc:
            return self._refuse(_status(exc), str(exc))
        except Exception as exc:  # the edge: no fault of ours may pass for Success
            log.error("store.fault", peer=self._sender.peer, exc_info=True)
            return self._refuse(CANNOT_UNDERSTAND, f"internal fault ({type(exc).__name__})")
        finally:
            self.discard()
        return Answer(SUCCESS)

    def discard(self) -> None:
        part, self._part = self._part, None
        if part is not None:
            part.discard()

    def _keep(self) -> None:
        if self._fault is not None:
            raise self._fault
        assert self._part is not None  # noqa: S101 - there is a part, or a fault
        command, syntax = self._command, self._context.transfer_syntax
        identity = self._part.identity(syntax)
        if identity.sop_uid != command.sop_uid:
            raise Mismatch("SOP Instance UID differs between command and data set")
        if identity.sop_class_uid != command.sop_class_uid:
            raise Mismatch("SOP Class UID differs between command and data set")
        kept = self._part.keep(identity)
        row = new_instance(identity, kept, syntax, self._sender.peer, datetime.now(UTC))
        self._handlers.intake.add(row, self._sender.number)

    def _refuse(self, status: int, comment: str) -> Answer:
        self._handlers.intake.refused(status)
        peer = self._sender.peer
        log.warning("store.refused", peer=peer, status=f"0x{status:04X}", reason=comment)
        return Answer(status, comment)


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
