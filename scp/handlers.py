"""What a message leads to: C-STORE, C-ECHO, N-ACTION, N-EVENT-REPORT, and the map to status values.

The status values are those of ``scp.statuses``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

import structlog

from limen.errors import LimenError, OutOfSpace, Permanent, Transient, Unreadable
from limen.instance import NewCommitment
from limen.uids import is_uid
from scp.commitment_messages import instances_of, report_of
from scp.dimse import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_EVENT_REPORT_RQ,
    RESPONSE,
    Answer,
    Command,
    NotACommand,
)
from scp.intake import Intake, new_instance
from scp.negotiation import Context
from scp.refusals import Refusals
from scp.sop_classes import COMMITMENT, COMMITMENT_INSTANCE
from scp.spool import Part, Spool
from scp.statuses import (
    CANNOT_UNDERSTAND,
    INVALID_ARGUMENT,
    MISMATCH,
    NO_SUCH_ACTION,
    NO_SUCH_CLASS,
    NO_SUCH_EVENT,
    NO_SUCH_INSTANCE,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SUCCESS,
    UNRECOGNISED_OPERATION,
)

__all__ = ["Handlers", "Ignored", "Sender", "Sink"]

log = structlog.get_logger("scp.store")

_REQUEST_COMMITMENT = 1  # action type (PS3.4 J.3.2)
_REPORTS = (1, 2)  # event types (PS3.4 J.3.3.1)
_REQUEST_LIMIT_BYTES = 2 << 20  # 20,000 instances


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

    @property
    def refusals(self) -> Refusals:
        """What it was refused so far."""


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
            return _Storing(self, command, context, sender)
        if command.field == N_ACTION_RQ:
            return _Asking(self, command, context, sender)
        if command.field == N_EVENT_REPORT_RQ:
            return _Told(self, command, context, sender)
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


class _Gathered:
    """A message of storage commitment; its data set is gathered, up to a limit."""

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
            self._sender.refusals.note("commitment.refused", answer.status, answer.comment)
        return answer

    def _answer(self) -> Answer:
        refusal = self._refusal(self._command)
        if refusal is not None:
            return refusal
        try:
            return self._take()
        except Unreadable as exc:
            return Answer(INVALID_ARGUMENT, str(exc))
        except LimenError as exc:
            return Answer(PROCESSING_FAILURE, str(exc))

    def _refusal(self, command: Command) -> Answer | None:
        if {command.sop_class_uid, self._context.abstract_syntax} != {COMMITMENT}:
            return Answer(NO_SUCH_CLASS, "this is served for storage commitment only")
        if command.sop_uid != COMMITMENT_INSTANCE:
            return Answer(NO_SUCH_INSTANCE, "not the instance 1.2.840.10008.1.20.1.1")
        if not self._fits:
            return Answer(INVALID_ARGUMENT, "the data set is too long; use several")
        return self._wrong_type(command)

    def _wrong_type(self, command: Command) -> Answer | None:
        raise NotImplementedError

    def _take(self) -> Answer:
        raise NotImplementedError


class _Asking(_Gathered):
    """One N-ACTION: a peer asks us to vouch for what it sent."""

    def _wrong_type(self, command: Command) -> Answer | None:
        if command.action != _REQUEST_COMMITMENT:
            return Answer(NO_SUCH_ACTION, "action type is not 1")
        return None

    def _take(self) -> Answer:
        transaction, pairs = instances_of(self._body, self._context.transfer_syntax)
        sender = self._sender
        asked = NewCommitment(transaction, sender.peer, sender.address, pairs)
        self._intake.ask(asked, sender.number)
        return Answer(SUCCESS)


class _Told(_Gathered):
    """One N-EVENT-REPORT: a PACS says whether it keeps what we sent."""

    def _wrong_type(self, command: Command) -> Answer | None:
        if command.event not in _REPORTS:
            return Answer(NO_SUCH_EVENT, "event type is neither 1 nor 2")
        return None

    def _take(self) -> Answer:
        report = report_of(self._body, self._context.transfer_syntax)
        if not self._intake.reported(report):
            return Answer(INVALID_ARGUMENT, "nothing was asked under this Transaction UID")
        log.info(
            "commitment.told",
            association=self._sender.number,
            peer=self._sender.peer,
            accepted=len(report.kept),
            refused=len(report.failed),
        )
        return Answer(SUCCESS)


class _Storing:
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
        self._began = time.monotonic()
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
        whole = time.monotonic()
        try:
            return self._answer()
        finally:
            self.discard()
            took = (whole - self._began, time.monotonic() - whole)
            self._handlers.intake.took(*took)

    def _answer(self) -> Answer:
        try:
            self._keep()
        except LimenError as exc:
            self._sender.refusals.note("store.refused", _status(exc), str(exc))
            return self._refused(_status(exc), _reason(exc), str(exc))
        except Exception as exc:  # the edge: no fault of ours may pass for Success
            said = f"internal fault ({type(exc).__name__})"
            if self._sender.refusals.note("store.refused", CANNOT_UNDERSTAND, said):
                sender = self._sender
                log.error("store.fault", association=sender.number, peer=sender.peer, exc_info=True)
            return self._refused(CANNOT_UNDERSTAND, "internal fault", said)
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

    def _refused(self, status: int, reason: str, comment: str) -> Answer:
        self._handlers.intake.refused(status, reason)
        self._handlers.intake.not_kept(self._sender.number, status, comment)
        return Answer(status, comment)


def _status(error: LimenError) -> int:
    if isinstance(error, Transient):
        return OUT_OF_RESOURCES
    return MISMATCH if isinstance(error, Mismatch) else CANNOT_UNDERSTAND


def _reason(error: LimenError) -> str:
    """Return a fault in the words that metrics count by: a few, whatever a peer sends."""
    if isinstance(error, OutOfSpace):
        return "no space"
    if isinstance(error, Transient):
        return "not keeping up"
    return "not what the command says" if isinstance(error, Mismatch) else "not understood"
