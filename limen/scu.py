"""One association as SCU: ask for it, C-ECHO, C-STORE of files as they are, with pynetdicom.

pynetdicom sends with Nagle's algorithm on and puts a whole instance into a queue without an end;
here the socket has a deadline and sends at once, and the queue holds a few PDUs.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification

from limen.errors import ConfigError, LimenError, Unreachable

__all__ = ["LOST", "MAX_CONTEXTS", "Answer", "Peer", "Refused", "Requestor", "Tls", "echo"]

# Send the bytes of a file as they are, without decoding the data set.
_config.STORE_SEND_CHUNKED_DATASET = True

MAX_CONTEXTS = 128
"""PS3.8 9.3.2.2: presentation context ids are odd and below 256."""

_PEER = re.compile(r"(?P<aet>[ -\[\]-~]{1,16})@(?P<host>[^@:\s]+|\[[0-9a-f:]+\]):(?P<port>\d{1,5})")
_IMPLICIT = "1.2.840.10008.1.2"
_REJECTIONS = _PERMANENT_REJECTION, _TRANSIENT_REJECTION = 1, 2  # PS3.8 9.3.4, Result
_QUEUED_PDUS = 32
_POLL_S = 0.05


class Refused(LimenError):
    """The peer rejected or aborted the association (exit code 4).

    Attributes
    ----------
    transient
        The peer said that another try may be accepted (PS3.8 9.3.4, Result 2).
    """

    def __init__(self, text: str, transient: bool = False) -> None:
        super().__init__(text)
        self.transient = transient


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
    """What became of one C-STORE.

    Attributes
    ----------
    status
        ``0x`` and four digits (PS3.4 Table B.2-1), or words when there was no answer.
    comment
        Error Comment (0000,0902), "" without one.
    may_pass_later
        Whether the same instance may be stored by another try.
    """

    status: str
    comment: str = ""
    may_pass_later: bool = False

    @property
    def stored(self) -> bool:
        """Whether the peer has the instance: Success, or Warning (PS3.4 B.2.3)."""
        return self.status in _STORED

    @classmethod
    def of(cls, status: int, comment: str) -> Answer:
        """Return the answer that a status value is."""
        passing = status >> 8 == 0xA7 or status in {0x0110, 0x0213}
        return cls(f"0x{status:04X}", comment, passing)


LOST = Answer("association lost", may_pass_later=True)
_STORED = {"0x0000", "0xB000", "0xB006", "0xB007", "0x0001", "0x0107", "0x0116"}


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


class Requestor:
    """An open association; a context manager that releases it.

    Parameters
    ----------
    contexts
        Pairs of abstract syntax and transfer syntax, at most ``MAX_CONTEXTS``.
    timeout_s
        For the connection, for each answer, and for the peer to take a PDU.

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
    ) -> None:
        self._timeout_s = timeout_s
        self._connected = False
        ae = AE(ae_title=calling)
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
                evt_handlers=[(evt.EVT_CONN_OPEN, self._on_open)],
            )
        except OSError as exc:  # pynetdicom catches those of the connection, not that of the name
            raise Unreachable(f"{peer}: the host has no address ({exc.strerror})") from exc
        if not self._association.is_established:
            self.close()
            raise self._refusal(peer, calling, context)
        self._association.dul.to_provider_queue = _Outgoing(self._association, timeout_s)

    def __enter__(self) -> Requestor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is still an association."""
        return bool(self._association.is_established)

    def close(self) -> None:
        """Release, and close the socket: pynetdicom leaves it open when the peer died."""
        if self._association.is_established:
            self._association.release()
        self._hang_up()

    def echo(self) -> bool:
        """Return whether a C-ECHO was answered with Success."""
        status = self._association.send_c_echo()
        return status is not None and "Status" in status and status.Status == 0

    def store(self, path: Path, message_id: int = 1) -> Answer:
        """Send the data set of a DICOM file, byte for byte, and return the peer's answer."""
        if not self.is_open:
            return LOST
        try:
            status = self._association.send_c_store(path, msg_id=message_id)
        except ValueError:  # no accepted presentation context for this file
            return Answer("presentation context refused")
        except (OSError, AttributeError, RuntimeError) as exc:
            if self.is_open and isinstance(exc, OSError):  # a message may be cut off in the middle
                self._association.abort()
                self._hang_up()
            return Answer(f"not sent ({type(exc).__name__})", may_pass_later=True)
        if "Status" not in status:
            return Answer("no answer", may_pass_later=True)
        return Answer.of(status.Status, str(status.get("ErrorComment", "") or ""))

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
            return Refused(f"{peer} accepted none of the proposed presentation contexts")
        if self._connected:
            also = "" if context is not None else "; does it want TLS?"
            return Unreachable(f"{peer} closed the connection without an answer{also}")
        fault = None if context is None else _handshake_fault(peer, context, self._timeout_s)
        if fault is not None:
            return Unreachable(f"{peer}: the TLS handshake failed ({fault}); check --ca and --cert")
        return Unreachable(f"{peer} does not answer; check host, port and firewall")


def echo(peer: Peer, calling: str, timeout_s: float = 10.0, tls: Tls | None = None) -> float:
    """Verify a peer with C-ECHO; return seconds from the request to the answer.

    Raises
    ------
    Refused
        It rejected us, or did not answer with Success.
    Unreachable
        Nobody listens there.
    """
    with Requestor(peer, calling, [(str(Verification), _IMPLICIT)], timeout_s, tls) as requestor:
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
        return (exc.reason or str(exc)).lower().replace("_", " ")
    except OSError:
        return None
