"""One association: its thread, its deadlines, its messages (PS3.8 9.2, PS3.7 8).

The thread blocks in the socket; nothing polls. Every wait has a deadline: for the handshake, for a
PDU from its first to its last byte, for the silence between two, and for the whole association.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from limen.errors import Busy
from limen.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from limen.uids import is_uid
from scp.commitment_messages import Report
from scp.connection import Connection
from scp.dimse import C_STORE_RQ, N_EVENT_REPORT_RSP, Answer, Command, NotACommand, event_report
from scp.guard import Subject
from scp.handlers import Ignored, Sink
from scp.machine import EVENT_OF_PDU, TABLE, Action, Event, State
from scp.negotiation import Context, Request, Unsupported, negotiate
from scp.pdu import (
    ABORT,
    ASSOCIATE_LIMIT_BYTES,
    ASSOCIATE_RQ,
    P_DATA,
    Closed,
    Malformed,
    Overdue,
    Stream,
    abort_pdu,
    data_pdus,
    reject_pdu,
    release_pdu,
)
from scp.refusals import Refusals
from scp.service import Service
from scp.sop_classes import COMMITMENT, COMMITMENT_INSTANCE

__all__ = ["Association"]

log = structlog.get_logger("scp.association")

_COMMAND_LIMIT_BYTES = 64 * 1024
_CONTROL_LIMIT_BYTES = 1024  # A-RELEASE and A-ABORT have 4
_LINGER_S = 2.0
_ABORT_WAIT_S = 0.2
_REPORT_S = 10.0
_LOGGED_CLASSES = 8
_OVER = frozenset({State.IDLE, State.AWAITING_CLOSE})
_UNRECOGNISED, _UNEXPECTED = 1, 2  # PS3.8 9.3.8, reasons of the service provider


class Association:
    """The life of one association, from the connection to its end. ``run`` is the whole of it."""

    def __init__(self, connection: Connection, service: Service) -> None:
        self.number = connection.number
        self.peer = ""
        self.address = connection.address
        self.contexts: Mapping[int, Context] = {}
        self.instances = 0
        self.refusals = Refusals()
        self._sock = connection.sock
        self._secure = connection.secure
        self._service = service
        self._settings = service.settings
        self._stream: Stream | None = None
        self._state = State.AWAITING_REQUEST
        self._reason = ""
        self._abort_reason = 0
        self._subject: Subject | None = None
        self._peer_max_bytes = 0
        self._began = began = time.monotonic()
        self._handshake_ends = began + self._settings.handshake_timeout_s
        self._ends = began + self._settings.association_timeout_s
        # Held from the first to the last PDU of a message and its answer: who wants to send
        # something else on this association waits for its turn.
        self._turn = threading.Lock()
        self._fragments = bytearray()
        self._command: Command | None = None
        self._context: Context | None = None
        self._sink: Sink | None = None
        self._reports = 0
        self._reported: dict[int, tuple[threading.Event, list[int | None]]] = {}

    @property
    def is_established(self) -> bool:
        """Whether messages can be exchanged."""
        return self._state is State.READY

    # -- life ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the peer until one side has had enough. Never raises."""
        try:
            self._stream = Stream(self._open())
            while self._state not in _OVER:
                self._turn_of_peer()
        except OSError as exc:
            self._note(f"connection: {type(exc).__name__}")
        except Exception:  # the edge: a fault of ours ends one association, not the process
            self._log().error("association.fault", exc_info=True)
            self._send(abort_pdu(2, 0))
            self._state = State.AWAITING_CLOSE
        finally:
            self._end()
            for answered, _ in list(self._reported.values()):
                answered.set()

    def abort(self) -> None:
        """End the association from another thread."""
        self._note("ended by the receiver")
        if self._turn.acquire(timeout=_ABORT_WAIT_S):
            self._send(abort_pdu(0, 0))
            self._turn.release()
        with contextlib.suppress(OSError):
            # Of the connection below TLS, whose own state belongs to the other thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def report(self, report: Report) -> bool:
        """Send an N-EVENT-REPORT from another thread; return whether the peer took it.

        Raises
        ------
        Busy
            The peer is in the middle of a message, and has been for ten seconds.
        """
        context = next((c for c in self.contexts.values() if c.abstract_syntax == COMMITMENT), None)
        if context is None:
            return False
        if not self._turn.acquire(timeout=_REPORT_S):
            raise Busy("the association that asked is in the middle of a message")
        self._reports += 1
        number = self._reports
        answered, statuses = self._reported.setdefault(number, (threading.Event(), []))
        try:
            try:
                if not self.is_established:
                    return False
                command = event_report(number, COMMITMENT, COMMITMENT_INSTANCE, report.event_type)
                body = report.encode(context.transfer_syntax)
                self._answer(data_pdus(context.context_id, command, body, self._peer_max_bytes))
            except (OSError, ValueError):
                return False
            finally:
                self._turn.release()
            answered.wait(min(self._settings.pdu_timeout_s, _REPORT_S))
            return statuses == [0]
        finally:
            self._reported.pop(number, None)

    def _open(self) -> socket.socket:
        """Make the socket ready; TLS shakes hands here, in the association's own thread."""
        sock = self._sock
        sock.settimeout(self._settings.handshake_timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._secure or self._service.credentials is None:
            return sock
        wrapped = self._service.credentials.context().wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False
        )
        self._sock = wrapped
        wrapped.settimeout(max(0.001, self._handshake_ends - time.monotonic()))
        try:
            wrapped.do_handshake()
        except (OSError, ValueError) as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else type(exc).__name__
            self._service.handlers.intake.rejected("TLS handshake", "", self.address)
            self._log().warning("tls.refused", reason=str(reason or "")[:80])
            raise Closed from exc
        self._subject = Subject.of(wrapped.getpeercert())
        return wrapped

    def _end(self) -> None:
        if self._sink is not None:
            self._sink.discard()
        if self._stream is not None:
            if self._state is State.AWAITING_CLOSE:
                self._stream.linger(time.monotonic() + _LINGER_S)
            self._stream.close()
        with contextlib.suppress(OSError):
            self._sock.close()
        if self.peer:
            self.refusals.tell(self._log())
            self._log().info(
                "association.ended",
                reason=self._reason or "released",
                count=self.instances,
                seconds=round(time.monotonic() - self._began, 3),
            )

    def _log(self) -> Any:
        """Return a log that says of each line whom it is about."""
        peer = self.peer or None
        return log.bind(association=self.number, peer=peer, address=self.address)

    # -- the state machine -----------------------------------------------------------------------

    def _turn_of_peer(self) -> None:
        """Take one PDU, or one message, and step through the table."""
        stream = self._stream
        assert stream is not None  # noqa: S101 - run() has made it
        try:
            if self._state is State.AWAITING_REQUEST:
                self._pdu(stream, self._handshake_ends)
                return
            stream.wait(min(time.monotonic() + self._settings.idle_timeout_s, self._ends))
            with self._turn:
                self._pdu(stream, self._deadline())
                while self._context is not None:
                    self._pdu(stream, self._deadline())
        except Overdue:
            self._note("timed out")
            self._step(Event.TIMER)
        except Malformed as exc:
            self._note(str(exc))
            self._abort_reason = exc.reason
            self._step(Event.INVALID_PDU)
        except NotACommand as exc:
            self._note(str(exc))
            self._step(Event.LOCAL_ABORT)
        except OSError:
            self._note("connection lost")
            self._step(Event.CLOSED)

    def _pdu(self, stream: Stream, deadline: float) -> None:
        kind, length = stream.header(deadline)
        event = EVENT_OF_PDU.get(kind)
        if event is None:
            raise Malformed("unrecognised PDU", _UNRECOGNISED)
        limit = self._settings.max_pdu_bytes if kind == P_DATA else _CONTROL_LIMIT_BYTES
        if kind == ASSOCIATE_RQ:
            limit = ASSOCIATE_LIMIT_BYTES
        if length > limit and kind != ABORT:
            raise Malformed(f"PDU of {length} bytes is over the limit of {limit}")
        if self._context is not None and event is Event.RELEASE_RQ:
            raise Malformed("release within a message", _UNEXPECTED)
        self._step(event, stream, length, deadline)

    def _step(
        self,
        event: Event,
        stream: Stream | None = None,
        length: int = 0,
        deadline: float = 0.0,
    ) -> None:
        cell = TABLE.get((self._state, event))
        if cell is None:  # over already
            return
        action, state = cell
        if action is Action.DELIVER:
            assert stream is not None  # noqa: S101 - a PDU came through it
            self._data(stream, length, deadline)
            return
        if action is Action.CONSIDER:
            assert stream is not None  # noqa: S101
            self._consider(stream.read(length, deadline), state)
            return
        self._state = state
        if action is Action.ANNOUNCE_RELEASE:
            self._step(Event.RELEASE)
        elif action is Action.RELEASE:
            self._send(release_pdu())
        elif action is Action.ABORT:
            self._note("unexpected PDU")
            self._send(abort_pdu(0, 0))
        elif action is Action.ABORT_PROVIDER:
            self._note("unexpected PDU")
            self._send(abort_pdu(2, self._abort_reason or _UNEXPECTED))
        elif action is Action.PEER_ABORTED:
            self._note("aborted by the peer")

    def _note(self, reason: str) -> None:
        """Keep the first reason for the end; what follows is its consequence."""
        self._reason = self._reason or reason

    def _deadline(self) -> float:
        return min(time.monotonic() + self._settings.pdu_timeout_s, self._ends)

    def _send(self, data: bytes) -> None:
        """Send a last word; whether it arrives changes nothing."""
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.send(data, time.monotonic() + self._settings.pdu_timeout_s)

    # -- opening -----------------------------------------------------------------------------------

    def _consider(self, body: bytes, state: State) -> None:
        settings, service = self._settings, self._service
        try:
            request = Request.parse(body)
            self._state = state
        except Unsupported as exc:
            self._reject(str(exc), exc.code, None)
            return
        refusal = service.guard.refusal(
            request.calling, request.called, self.address, self._subject
        )
        if refusal is not None:
            self._reject(refusal.reason, refusal.code, request)
            return
        agreement = negotiate(
            request,
            service.served,
            service.storage,
            max_contexts=settings.max_contexts,
            max_pdu_bytes=settings.max_pdu_bytes,
            implementation=(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME),
        )
        self.peer = request.calling
        self.contexts = agreement.contexts
        self._peer_max_bytes = request.max_pdu_bytes
        self._state = TABLE[State.AWAITING_LOCAL_ANSWER, Event.ACCEPT][1]
        self._answer(agreement.answer)
        self._log().info(
            "association.open",
            proposed=len(request.proposals),
            accepted=len(agreement.contexts),
            refused=_shown(agreement.refused),
            implementation=_shown_name(request),
            state="TLS" if self._secure else None,
            identity=request.identity_type,
        )

    def _reject(self, reason: str, code: tuple[int, int, int], request: Request | None) -> None:
        self._note(reason)
        self._state = TABLE[State.AWAITING_LOCAL_ANSWER, Event.REJECT][1]
        calling = request.calling if request else ""
        self._service.handlers.intake.rejected(reason, calling, self.address)
        self._log().warning(
            "association.rejected",
            reason=reason,
            code="/".join(map(str, code)),
            peer=request.calling if request else None,
            called=request.called if request else None,
            proposed=len(request.proposals) if request else None,
            classes=_shown(p.abstract_syntax for p in request.proposals) if request else None,
            implementation=_shown_name(request) if request else None,
        )
        self._send(reject_pdu(*code))

    # -- messages ------------------------------------------------------------------------------

    def _data(self, stream: Stream, left: int, deadline: float) -> None:
        """Take the fragments of one P-DATA-TF PDU (PS3.8 9.3.5, E.2)."""
        if left < 6:
            raise Malformed("P-DATA-TF without a fragment")
        while left:
            if left < 6:
                raise Malformed("a fragment is cut off")
            length, context_id, control = stream.pdv(deadline)
            left -= length + 6
            if length < 0 or left < 0:
                raise Malformed("a fragment is longer than its PDU")
            context = self.contexts.get(context_id)
            if context is None:
                raise Malformed("presentation context was not accepted")
            last = control & 2
            if control & 1:
                self._take_command(stream.read(length, deadline), context, last)
                continue
            sink = self._sink
            if sink is None or context is not self._context:
                raise Malformed("data set without its command", _UNEXPECTED)
            while length:
                chunk = stream.take(length, deadline)
                length -= len(chunk)
                sink.write(chunk)
            if last:
                self._finish(sink)

    def _take_command(self, fragment: bytes, context: Context, last: int) -> None:
        if self._sink is not None or self._context not in (None, context):
            raise Malformed("command within another message", _UNEXPECTED)
        self._context = context
        self._fragments += fragment
        if len(self._fragments) > _COMMAND_LIMIT_BYTES:
            raise Malformed("command set is too long")
        if not last:
            return
        self._command = command = Command.parse(bytes(self._fragments))
        self._fragments = bytearray()
        handlers = self._service.handlers
        if command.field == N_EVENT_REPORT_RSP:
            self._take_response(command)
            return
        if command.has_data_set:
            self._sink = handlers.sink(command, context, self)
            return
        self._respond(command, context, handlers.answer(command, context, self))

    def _take_response(self, command: Command) -> None:
        """Wake the thread that sent a report."""
        waiting = self._reported.get(command.message_id)
        if waiting is None:
            raise NotACommand("a response to nothing that was asked")
        answered, statuses = waiting
        statuses.append(command.status)
        answered.set()
        if command.has_data_set:  # an Event Reply: nothing in it is asked for
            self._sink = Ignored()
        else:
            self._context = None

    def _finish(self, sink: Sink) -> None:
        command, context = self._command, self._context
        assert command is not None and context is not None  # noqa: S101, PT018 - the sink is theirs
        answer = sink.finish()
        self._sink = None
        if answer is not None and answer.status == 0 and command.field == C_STORE_RQ:
            self.instances += 1
        self._respond(command, context, answer)

    def _respond(self, command: Command, context: Context, answer: Answer | None) -> None:
        self._context = None
        if answer is not None:
            response = command.answered(answer)
            self._answer(data_pdus(context.context_id, response, b"", self._peer_max_bytes))

    def _answer(self, data: bytes) -> None:
        """Send what the peer waits for, or raise ``Overdue``."""
        assert self._stream is not None  # noqa: S101 - the peer asked through it
        self._stream.send(data, time.monotonic() + self._settings.pdu_timeout_s)


def _shown(uids: Iterable[str]) -> str | None:
    """Return UIDs for a log line: what is no UID is a stranger's text, and is not repeated."""
    found = list(dict.fromkeys(u if is_uid(u) else "(not a UID)" for u in uids))
    more = f" and {len(found) - _LOGGED_CLASSES} more" if len(found) > _LOGGED_CLASSES else ""
    return " ".join(found[:_LOGGED_CLASSES]) + more if found else None


def _shown_name(request: Request) -> str | None:
    name = request.implementation_version
    return name if name.isascii() and name.isprintable() and name else None
