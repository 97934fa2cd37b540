"""One association as SCU: C-ECHO, C-STORE of files as they are, storage commitment; pynetdicom.

pynetdicom sends with Nagle's algorithm on and puts a whole instance into a queue without an end;
here the socket has a deadline and sends at once, and the queue holds a few PDUs.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from limen import dimse
from limen.errors import ConfigError, LimenError, Unreachable
from limen.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from limen.instance import CommitmentReport

__all__ = [
    "COMMITMENT",
    "EXPLICIT",
    "IMPLICIT",
    "LOST",
    "MAX_CONTEXTS",
    "NOT_ACCEPTED",
    "Answer",
    "NothingAccepted",
    "Peer",
    "Refused",
    "Requestor",
    "Tls",
    "echo",
]

# Send the bytes of a file as they are, without decoding the data set.
_config.STORE_SEND_CHUNKED_DATASET = True

MAX_CONTEXTS = 128
"""PS3.8 9.3.2.2: presentation context ids are odd and below 256."""

COMMITMENT = str(StorageCommitmentPushModel)
"""What is proposed for storage commitment, beside what is stored (PS3.4 J)."""

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
"""Implicit VR little endian, that every peer takes (PS3.5 10.1), and explicit."""

_PEER = re.compile(r"(?P<aet>[ -\[\]-~]{1,16})@(?P<host>[^@:\s]+|\[[0-9a-f:]+\]):(?P<port>\d{1,5})")
_REJECTIONS = _PERMANENT_REJECTION, _TRANSIENT_REJECTION = 1, 2  # PS3.8 9.3.4, Result
_QUEUED_PDUS = 32
_QUEUED_REPORTS = 8
_POLL_S = 0.05
_REQUEST_COMMITMENT = 1  # action type (PS3.4 J.3.2)
_PROCESSING_FAILURE = 0x0110


class Refused(LimenError):
    """The peer rejected or aborted the association.

    Attributes
    ----------
    transient
        The peer said that another try may be accepted (PS3.8 9.3.4, Result 2).
    """

    exit_code = 4

    def __init__(self, text: str, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


class NothingAccepted(Refused):
    """The peer has accepted the association, and no presentation context of it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call: AE title, host and port."""

    ae_title: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Read ``AET@host:port``.

        Raises
        ------
        ValueError
            It is written differently.
        """
        match = _PEER.fullmatch(text)
        named = match is not None and match["aet"].strip()
        if match is None or not named or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"{text!r} is not AET@host:port, for instance LIMEN@127.0.0.1:11112")
        return cls(match["aet"].strip(), match["host"].strip("[]"), int(match["port"]))

    def __str__(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS (PS3.15 B.12): PEM files.

    Attributes
    ----------
    ca_file
        Who signed the peer's certificate; None: whom this machine trusts.
    certificate_file, key_file
        Who we are, for a peer that asks.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return TLS 1.2 or newer that checks the peer's certificate and its name.

        Raises
        ------
        ConfigError
            A file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(f"{self.ca_file} holds no certificates in PEM ({exc})") from exc
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None:
            try:
                context.load_cert_chain(self.certificate_file, self.key_file)
            except (OSError, ssl.SSLError) as exc:
                raise ConfigError(
                    f"{self.certificate_file} and {self.key_file or 'the key in it'} are not a "
                    f"certificate and its key in PEM ({exc})"
                ) from exc
        return context


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one C-STORE, or of one N-ACTION.

    Attributes
    ----------
    status
        ``0x`` and four digits (PS3.4 Table B.2-1), or words when there was no answer.
    comment
        Error Comment (0000,0902), "" without one.
    kind
        What to do about it.
    """

    status: str
    comment: str = ""
    kind: dimse.Kind = dimse.Kind.PERMANENT

    @property
    def stored(self) -> bool:
        """Whether the peer has the instance: Success, or Warning (PS3.4 B.2.3)."""
        return self.kind in {dimse.Kind.SUCCESS, dimse.Kind.WARNING}

    @property
    def may_pass_later(self) -> bool:
        """Whether the same instance may be stored by another try."""
        return self.kind in {dimse.Kind.TRANSIENT, dimse.Kind.FULL}

    @classmethod
    def of(cls, status: int, comment: str = "") -> Answer:
        """Return the answer that a status value is."""
        return cls(f"0x{status:04X}", comment, dimse.meaning(status).kind)

    def __str__(self) -> str:
        code = self.status.startswith("0x")
        words = dimse.in_words(int(self.status, 16)) if code else self.status
        return f"{words} ({self.comment})" if self.comment else words


LOST = Answer("association lost", kind=dimse.Kind.TRANSIENT)
NOT_ACCEPTED = Answer("presentation context refused")


class _Outgoing(queue.Queue[Any]):
    """What waits to be written to the socket. Bounded: an instance may be larger than memory."""

    def __init__(self, association: Association, timeout_s: float) -> None:
        super().__init__(_QUEUED_PDUS)
        self._association = association
        self._timeout_s = timeout_s

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        deadline = time.monotonic() + self._timeout_s
        while self._association.dul.is_alive():
            with contextlib.suppress(queue.Full):
                return super().put(item, timeout=_POLL_S)
            if self._association.is_aborted or time.monotonic() > deadline:
                break
        if isinstance(item, P_DATA):
            raise BrokenPipeError("the peer takes nothing")
        return None  # a goodbye to a peer that is gone


class _Answers(queue.Queue[Any]):
    """What the peer said, for whoever waits for it.

    pynetdicom's own thread looks here without waiting and would serve what it finds as a request.
    Where it was held up between asking whether it may and looking, it took the answer to ours, and
    a stored instance was told as not answered. We serve no requests but reports of storage
    commitment, which come by another way: it finds nothing.
    """

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not block:
            raise queue.Empty
        return super().get(timeout=timeout)


class Requestor:
    """An open association; a context manager that releases it.

    Parameters
    ----------
    contexts
        Pairs of abstract syntax and transfer syntax, at most ``MAX_CONTEXTS``.
    timeout_s
        For the connection, for each answer, and for the peer to take a PDU.
    provides
        Abstract syntaxes in which we are the SCP, and the peer the SCU (PS3.7 D.3.3.4).

    Raises
    ------
    Refused
        The peer rejected us, or accepted no context.
    Unreachable
        Nobody listens there, or not in time, or the TLS handshake failed.
    ConfigError
        A file of ``tls`` cannot be used.
    """

    def __init__(
        self,
        peer: Peer,
        calling: str,
        contexts: Iterable[tuple[str, str]],
        timeout_s: float,
        tls: Tls | None = None,
        provides: Iterable[str] = (),
    ) -> None:
        self._timeout_s = timeout_s
        self._connected = False
        self._reports: queue.Queue[CommitmentReport] = queue.Queue(_QUEUED_REPORTS)
        self._acknowledging: list[threading.Thread] = []
        ae = AE(ae_title=calling)
        ae.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
        ae.connection_timeout = timeout_s
        context = None if tls is None else tls.context()
        try:
            self._association = ae.associate(
                peer.host,
                peer.port,
                contexts=[build_context(UID(sop), UID(syntax)) for sop, syntax in contexts],
                ae_title=peer.ae_title,
                tls_args=None if context is None else (context, peer.host),
                ext_neg=[build_role(UID(sop), scp_role=True) for sop in provides],
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._on_open),
                    (evt.EVT_N_EVENT_REPORT, self._on_report),
                ],
            )
        except OSError as exc:  # pynetdicom catches those of the connection, not that of the name
            raise Unreachable(f"{peer}: the host has no address ({exc.strerror})") from exc
        if not self._association.is_established:
            self.close()
            raise self._refusal(peer, calling, context)
        self._association.dul.to_provider_queue = _Outgoing(self._association, timeout_s)
        self._association.dimse.msg_queue = _Answers()

    def __enter__(self) -> Requestor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is still an association."""
        return bool(self._association.is_established)

    def close(self) -> None:
        """Release, and close the socket: pynetdicom leaves it open when the peer died.

        A report that was taken is acknowledged first: nothing may follow a request for release.
        """
        for thread in self._acknowledging:
            thread.join(self._timeout_s)
        if self._association.is_established:
            self._association.release()
        self._hang_up()

    def echo(self) -> bool:
        """Return whether a C-ECHO was answered with Success."""
        status = self._association.send_c_echo()
        return status is not None and "Status" in status and status.Status == 0

    def accepted(self, sop_class: str) -> frozenset[str]:
        """Return the transfer syntaxes that the peer takes a SOP class in; none: it does not."""
        return frozenset(
            str(context.transfer_syntax[0])
            for context in self._association.accepted_contexts
            if context.abstract_syntax == sop_class
        )

    def store(self, path: Path, message_id: int = 1) -> Answer:
        """Send the data set of a DICOM file, byte for byte, and return the peer's answer."""
        if not self.is_open:
            return LOST
        try:
            status = self._association.send_c_store(path, msg_id=message_id)
        except ValueError:  # no accepted presentation context for this file
            return NOT_ACCEPTED
        except (OSError, AttributeError, RuntimeError) as exc:
            if self.is_open and isinstance(exc, OSError):  # a message may be cut off in the middle
                self._association.abort()
                self._hang_up()
            return Answer(f"not sent ({type(exc).__name__})", kind=dimse.Kind.TRANSIENT)
        return _answer(status)

    def ask_commitment(self, transaction_uid: str, instances: Iterable[tuple[str, str]]) -> Answer:
        """Ask the peer to vouch for instances (N-ACTION, PS3.4 J.3.2).

        Parameters
        ----------
        instances
            Pairs of SOP Class UID and SOP Instance UID.
        """
        if not self.is_open:
            return LOST
        if not self.accepted(COMMITMENT):
            return NOT_ACCEPTED
        asked = Dataset()
        asked.TransactionUID = transaction_uid
        asked.ReferencedSOPSequence = [_reference(*pair) for pair in instances]
        try:
            status, _ = self._association.send_n_action(
                asked, _REQUEST_COMMITMENT, COMMITMENT, StorageCommitmentPushModelInstance
            )
        except (OSError, ValueError, AttributeError, RuntimeError) as exc:
            return Answer(f"not asked ({type(exc).__name__})", kind=dimse.Kind.TRANSIENT)
        return _answer(status)

    def tell(self, event_type: int, said: Dataset) -> Answer:
        """Report storage commitment to the peer that asked (N-EVENT-REPORT, PS3.4 J.3.3).

        Parameters
        ----------
        said
            The data set of PS3.4 Table J.3-2.
        """
        try:
            status, _ = self._association.send_n_event_report(
                said, event_type, COMMITMENT, StorageCommitmentPushModelInstance
            )
        except ValueError:  # no context in which we are the one who reports
            return NOT_ACCEPTED
        except (OSError, AttributeError, RuntimeError) as exc:
            return Answer(f"not told ({type(exc).__name__})", kind=dimse.Kind.TRANSIENT)
        return _answer(status)

    def report(self, timeout_s: float) -> CommitmentReport | None:
        """Wait for a report of storage commitment on this association."""
        deadline = time.monotonic() + timeout_s
        while self.is_open and (left_s := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                return self._reports.get(timeout=min(left_s, _POLL_S))
        return None

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        """Take an N-EVENT-REPORT; pynetdicom calls and answers in a thread for each."""
        before = [thread for thread in self._acknowledging if thread.is_alive()]
        self._acknowledging = [*before, threading.current_thread()]
        try:
            report = _report(event.event_information)
            self._reports.put_nowait(report)
        except Exception:  # whatever a peer sends: it is told, and may report again
            return _PROCESSING_FAILURE, None
        return 0x0000, None

    def _on_open(self, event: evt.Event) -> None:
        sock = event.assoc.dul.socket.socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self._timeout_s)
        self._connected = True

    def _hang_up(self) -> None:
        wrapper = self._association.dul.socket
        if wrapper is not None and wrapper.socket is not None:
            wrapper.socket.close()

    def _refusal(self, peer: Peer, calling: str, context: ssl.SSLContext | None) -> LimenError:
        """Return why there is no association."""
        association = self._association
        answer = association.acceptor.primitive
        # One that came before the library asked whether it is connected is still in its queue.
        late = association.dul.receive_pdu() if answer is None else None
        for rejection in (answer, late):
            if getattr(rejection, "result", None) in _REJECTIONS:
                return _rejected(rejection, peer, calling)
        if association.requestor.primitive is not None and answer is not None:
            return NothingAccepted(f"{peer} accepted none of the proposed presentation contexts")
        if self._connected:
            also = "" if context is not None else "; does it want TLS?"
            return Unreachable(f"{peer} closed the connection without an answer{also}")
        fault = None if context is None else _handshake_fault(peer, context, self._timeout_s)
        if fault is not None:
            return Unreachable(
                f"{peer}: the TLS handshake failed ({fault}); check --ca and --cert, or in the "
                "settings its ca_file and certificate_file"
            )
        return Unreachable(f"{peer} does not answer; check host, port and firewall")


def _answer(status: Dataset) -> Answer:
    """Return what a response says; pynetdicom gives an empty one where none came."""
    if "Status" not in status:
        return Answer("no answer", kind=dimse.Kind.TRANSIENT)
    return Answer.of(status.Status, str(status.get("ErrorComment", "") or ""))


def _report(said: Dataset) -> CommitmentReport:
    """Read the data set of an N-EVENT-REPORT (PS3.4 Table J.3-2)."""
    return CommitmentReport(
        str(said.TransactionUID),
        tuple(str(i.ReferencedSOPInstanceUID) for i in said.get("ReferencedSOPSequence") or []),
        tuple(
            # A reason is type 1; without one, it is that of a fault that nobody names.
            (str(i.ReferencedSOPInstanceUID), int(i.get("FailureReason", _PROCESSING_FAILURE)))
            for i in said.get("FailedSOPSequence") or []
        ),
    )


def _reference(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def echo(peer: Peer, calling: str, timeout_s: float = 10.0, tls: Tls | None = None) -> float:
    """Verify a peer with C-ECHO; return seconds from the request to the answer.

    Raises
    ------
    Refused
        It rejected us, or did not answer with Success.
    Unreachable
        Nobody listens there.
    """
    with Requestor(peer, calling, [(str(Verification), IMPLICIT)], timeout_s, tls) as requestor:
        began = time.monotonic()
        if not requestor.echo():
            raise Refused(f"{peer.ae_title} did not answer C-ECHO with Success")
        return time.monotonic() - began


def _rejected(answer: Any, peer: Peer, calling: str) -> Refused:
    transient = answer.result == _TRANSIENT_REJECTION
    advice = (
        "try again later"
        if transient
        else f"check the called AE title, and that the peer lists {calling} with this address"
    )
    return Refused(f"{peer} rejected {calling} ({answer.reason_str}); {advice}", transient)


def _handshake_fault(peer: Peer, context: ssl.SSLContext, timeout_s: float) -> str | None:
    """Shake hands once more to learn why it failed: pynetdicom does not tell."""
    try:
        with (
            socket.create_connection((peer.host, peer.port), timeout_s) as sock,
            context.wrap_socket(sock, server_hostname=peer.host),
        ):
            return None
    except ssl.SSLCertVerificationError as exc:
        return exc.verify_message
    except ssl.SSLError as exc:
        if exc.reason == "WRONG_VERSION_NUMBER":  # what comes is no record of TLS
            return "it speaks no TLS on that port"
        return (exc.reason or str(exc)).lower().replace("_", " ")
    except OSError:
        return None
