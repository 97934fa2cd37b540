"""PS3.8 on the wire, byte by byte: what a scripted peer says, and how it reads the answers.

Nothing here checks what it builds: any field can be wrong on purpose.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
APPLICATION = "1.2.840.10008.3.1.1.1"
VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ, C_FIND_RQ = 0x0001, 0x0030, 0x0FFF, 0x0020
C_STORE_RSP, C_ECHO_RSP = 0x8001, 0x8030
NO_DATA_SET, DATA_SET = 0x0101, 0x0001
WAIT_S = 15.0
"""Longer than any deadline that the tests set; who waits this long has hung."""


# -- what a peer says ------------------------------------------------------------------------------


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return a PDU (PS3.8 9.3.1); ``length`` is what it claims to hold."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return an item or sub-item of an A-ASSOCIATE PDU (PS3.8 9.3.2)."""
    return struct.pack(">BBH", kind, 0, len(body) if length is None else length) + body


@dataclass(frozen=True, slots=True)
class Context:
    """A proposed presentation context (PS3.8 9.3.2.2)."""

    id: int
    abstract: str | bytes = CT
    transfer: Sequence[str | bytes] = (EXPLICIT,)

    def encode(self) -> bytes:
        """Return the item."""
        syntaxes = b"".join(item(0x40, _ascii(t)) for t in self.transfer)
        return item(0x20, bytes([self.id, 0, 0, 0]) + item(0x30, _ascii(self.abstract)) + syntaxes)


def user_information(max_length: int = 16384, *more: bytes) -> bytes:
    """Return the user information item (PS3.8 9.3.2.3, PS3.7 D.3.3)."""
    items = item(0x51, struct.pack(">I", max_length)) + item(0x52, b"1.2.3.4")
    return item(0x50, items + b"".join(more) + item(0x55, b"ATTACK"))


DEFAULT_CONTEXTS = (Context(1, VERIFICATION, (IMPLICIT,)), Context(3))


def associate(
    contexts: Iterable[Context | bytes] = DEFAULT_CONTEXTS,
    *,
    called: str | bytes = "LIMEN",
    calling: str | bytes = "ATTACKER",
    version: int = 1,
    application: bytes | None = None,
    user: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    named = item(0x10, APPLICATION.encode()) if application is None else application
    proposed = b"".join(c.encode() if isinstance(c, Context) else c for c in contexts)
    body = struct.pack(">HH", version, 0) + _title(called) + _title(calling) + bytes(32)
    body += named + proposed + (user_information() if user is None else user)
    return pdu(ASSOCIATE_RQ, body, length)


def value(context: int, fragment: bytes, *, command: bool, last: bool) -> bytes:
    """Return a presentation data value item (PS3.8 9.3.5.1, Annex E)."""
    head = bytes([context, (1 if command else 0) | (2 if last else 0)])
    return struct.pack(">I", len(fragment) + 2) + head + fragment


def p_data(*values: bytes) -> bytes:
    """Return a P-DATA-TF PDU."""
    return pdu(P_DATA, b"".join(values))


RELEASE = pdu(RELEASE_RQ, bytes(4))
ABORTION = pdu(ABORT, bytes(4))


def element(tag: int, content: bytes) -> bytes:
    """Return a data element in implicit VR little endian (PS3.5 7.1.3)."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(content)) + content


def us(number: int) -> bytes:
    """Return a value of VR US."""
    return struct.pack("<H", number)


def ui(uid: str) -> bytes:
    """Return a value of VR UI, padded to an even length."""
    raw = uid.encode()
    return raw + b"\0" * (len(raw) % 2)


def command(elements: dict[int, bytes], group_length: int | None = None) -> bytes:
    """Return a command set (PS3.7 6.3.1), its group length in front."""
    body = b"".join(element(tag, content) for tag, content in sorted(elements.items()))
    length = len(body) if group_length is None else group_length
    return element(0x00000000, struct.pack("<I", length)) + body


def echo_rq(message_id: int = 1) -> bytes:
    """Return the command set of a C-ECHO-RQ (PS3.7 9.3.5.1)."""
    return command(
        {
            0x00000002: ui(VERIFICATION),
            0x00000100: us(C_ECHO_RQ),
            0x00000110: us(message_id),
            0x00000800: us(NO_DATA_SET),
        }
    )


def store_rq(sop_uid: str, sop_class: str = CT, message_id: int = 1, **more: bytes) -> bytes:
    """Return the command set of a C-STORE-RQ (PS3.7 9.3.1.1); ``more``: tag in hex with ``t``."""
    elements = {
        0x00000002: ui(sop_class),
        0x00000100: us(C_STORE_RQ),
        0x00000110: us(message_id),
        0x00000700: us(2),
        0x00000800: us(DATA_SET),
        0x00001000: ui(sop_uid),
    }
    return command(elements | {int(tag[1:], 16): content for tag, content in more.items()})


def message(context: int, command_set: bytes, data_set: bytes | None = None, chunk: int = 16372):
    """Return the P-DATA PDUs of a DIMSE message."""
    pdus = p_data(value(context, command_set, command=True, last=True))
    if data_set is None:
        return pdus
    starts = range(0, max(1, len(data_set)), chunk)
    for start in starts:
        last = start == starts[-1]
        fragment = data_set[start : start + chunk]
        pdus += p_data(value(context, fragment, command=False, last=last))
    return pdus


def _ascii(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("ascii")


def _title(text: str | bytes) -> bytes:
    return _ascii(text).ljust(16)[:16]


# -- what it hears ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """A PDU that arrived; ``kind`` 0 is the end of the connection."""

    kind: int
    body: bytes = b""

    @property
    def rejection(self) -> tuple[int, int, int]:
        """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
        assert self.kind == ASSOCIATE_RJ, self
        return self.body[1], self.body[2], self.body[3]

    @property
    def results(self) -> dict[int, tuple[int, str]]:
        """Result and transfer syntax by presentation context id of an A-ASSOCIATE-AC."""
        assert self.kind == ASSOCIATE_AC, self
        found: dict[int, tuple[int, str]] = {}
        for kind, body in _items(self.body[68:]):
            if kind == 0x21:
                syntax = dict(_items(body[4:])).get(0x40, b"")
                found[body[0]] = (body[2], syntax.decode("ascii"))
        return found

    @property
    def max_length(self) -> int:
        """Maximum length that the acceptor of an A-ASSOCIATE-AC announces (PS3.8 D.1)."""
        user = dict(_items(self.body[68:]))[0x50]
        return int.from_bytes(dict(_items(user))[0x51], "big")


def _items(data: bytes) -> Iterable[tuple[int, bytes]]:
    while len(data) >= 4:
        kind, _, length = struct.unpack(">BBH", data[:4])
        yield kind, data[4 : 4 + length]
        data = data[4 + length :]


@dataclass(frozen=True, slots=True)
class Response:
    """A DIMSE response."""

    elements: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def decode(cls, raw: bytes) -> Response:
        """Read a command set."""
        elements = {}
        while len(raw) >= 8:
            group, number, length = struct.unpack("<HHI", raw[:8])
            elements[group << 16 | number] = raw[8 : 8 + length]
            raw = raw[8 + length :]
        return cls(elements)

    def number(self, tag: int) -> int:
        """Return a value of VR US."""
        return int.from_bytes(self.elements[tag], "little")

    @property
    def status(self) -> int:
        """Status (0000,0900)."""
        return self.number(0x00000900)

    @property
    def comment(self) -> str:
        """Error Comment (0000,0902)."""
        return self.elements.get(0x00000902, b"").decode("ascii").rstrip()


class RawPeer:
    """A TCP connection to the receiver that says whatever a test wants."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.sock = socket.create_connection(
            ("127.0.0.1", port), timeout=WAIT_S, source_address=(address, 0)
        )
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send bytes; a receiver that has hung up is no fault of the peer."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def hear(self) -> Heard:
        """Return the next PDU, or the end of the connection."""
        head = self._exactly(6)
        if head is None:
            return Heard(0)
        kind, _, length = struct.unpack(">BBI", head)
        body = self._exactly(length)
        return Heard(0) if body is None else Heard(kind, body)

    @classmethod
    def saying(cls, say: bytes, port: int, address: str = "127.0.0.1") -> Self:
        """Connect and say something at once."""
        peer = cls(port, address)
        peer.send(say)
        return peer

    def open(self, request: bytes | None = None) -> Heard:
        """Ask for an association that has to be accepted."""
        self.send(associate() if request is None else request)
        answer = self.hear()
        assert answer.kind == ASSOCIATE_AC, answer
        return answer

    def answer(self) -> Response:
        """Return the DIMSE response that arrives next."""
        heard = self.hear()
        assert heard.kind == P_DATA, heard
        return Response.decode(heard.body[6:])

    def ask(self, context: int, command_set: bytes, data_set: bytes | None = None) -> Response:
        """Send a DIMSE message and return the response."""
        self.send(message(context, command_set, data_set))
        return self.answer()

    def release(self) -> None:
        """End the association as PS3.8 says."""
        self.send(RELEASE)
        heard = self.hear()
        assert heard.kind == RELEASE_RP, heard
        assert self.hear().kind == 0

    def end(self) -> tuple[list[Heard], float]:
        """Hear until the connection ends; return what was said, and after how many seconds."""
        began, said = time.monotonic(), []
        while (heard := self.hear()).kind:
            said.append(heard)
        return said, time.monotonic() - began

    def ends(self, within_s: float) -> list[Heard]:
        """Hear until the connection ends, which has to be in time; return what was said."""
        said, seconds = self.end()
        assert seconds < within_s, f"the connection ended after {seconds:.1f} s"
        return said

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            try:
                chunk = self.sock.recv(count - len(data))
            except ConnectionError:
                return None
            if not chunk:
                return None
            data += chunk
        return data
