"""pynetdicom's acceptor as the reference: the same bytes to both, the same answers.

``STRICTER`` lists where ours differs, or decides for itself, on purpose: each with the reason and
the section of PS3.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_AC
from pynetdicom.sop_class import CTImageStorage, Verification

from limen.command.send import Peer
from tests.support.associations import connect
from tests.support.samples import STUDY_UID, data_set, encode
from tests.unit.scp.conftest import Listening

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
CT, ECHO = str(CTImageStorage), str(Verification)
SOP_UID = f"{STUDY_UID}.1.1"
Context = tuple[int, str, list[str]]

PLAIN: list[Context] = [(1, ECHO, [IMPLICIT]), (3, CT, [EXPLICIT, IMPLICIT])]


@pytest.fixture
def reference() -> Iterator[Peer]:
    """pynetdicom, serving what we serve of two SOP classes, and answering Success."""
    ae = AE(ae_title="LIMEN")
    ae.require_called_aet = True
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 5
    ae.maximum_pdu_size = 131072
    ae.add_supported_context(Verification, [EXPLICIT, IMPLICIT])
    ae.add_supported_context(CTImageStorage, [EXPLICIT, IMPLICIT])
    handlers = [(evt.EVT_C_STORE, lambda _: 0x0000)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    yield Peer("LIMEN", "127.0.0.1", server.server_address[1])
    server.shutdown()


# -- bytes -----------------------------------------------------------------------------------------


def item(kind: int, body: bytes) -> bytes:
    return bytes([kind, 0]) + struct.pack(">H", len(body)) + body


def request(
    contexts: list[Context] | None = None,
    *,
    called: bytes = b"LIMEN",
    version: int = 1,
    application: bytes = b"1.2.840.10008.3.1.1.1",
    more: bytes = b"",
    max_length: int = 16384,
) -> bytes:
    body = struct.pack(">HH", version, 0) + called.ljust(16) + b"CT1".ljust(16) + bytes(32)
    body += item(0x10, application)
    for number, abstract, syntaxes in PLAIN if contexts is None else contexts:
        inner = item(0x30, abstract.encode())
        inner += b"".join(item(0x40, s.encode()) for s in syntaxes)
        body += item(0x20, bytes([number, 0, 0, 0]) + inner)
    body += item(0x50, item(0x51, struct.pack(">I", max_length)) + item(0x52, b"1.2.3") + more)
    return pdu(1, body)


def pdu(kind: int, body: bytes) -> bytes:
    return bytes([kind, 0]) + struct.pack(">I", len(body)) + body


def fragment(context_id: int, control: int, body: bytes) -> bytes:
    return struct.pack(">IBB", len(body) + 2, context_id, control) + body


def data(context_id: int, control: int, body: bytes) -> bytes:
    return pdu(4, fragment(context_id, control, body))


def elements(*pairs: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack("<HHI", 0, e, len(v)) + v for e, v in pairs)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def number(value: int) -> bytes:
    return struct.pack("<H", value)


def uid(text: str) -> bytes:
    return text.encode() + b"\0" * (len(text) % 2)


def echo(message_id: int = 1) -> bytes:
    return elements(
        (0x0002, uid(ECHO)), (0x0100, number(0x30)), (0x0110, number(message_id)),
        (0x0800, number(0x0101)),
    )  # fmt: skip


def store(message_id: int = 2, sop_uid: str = SOP_UID) -> bytes:
    return elements(
        (0x0002, uid(CT)), (0x0100, number(1)), (0x0110, number(message_id)),
        (0x0700, number(0)), (0x0800, number(1)), (0x1000, uid(sop_uid)),
        (0x1030, b"PACS"), (0x1031, number(9)),
    )  # fmt: skip


BODY = encode(data_set())
RELEASE, ABORT = pdu(5, bytes(4)), pdu(7, bytes(4))


# -- playing -----------------------------------------------------------------------------------


def play(peer: Peer, *script: bytes) -> list[Any]:
    """Send each part, read one PDU after it; return what came, in comparable form."""
    seen: list[Any] = []
    with connect(peer, 10) as sock:
        for part in script:
            try:
                sock.sendall(part)
                answer = receive(sock)
            except ConnectionError:
                answer = b""
            seen.append(shape(answer))
            if not answer or answer[0] in (3, 6, 7):
                break
    return seen


def receive(sock: socket.socket) -> bytes:
    head = exactly(sock, 6)
    return head + exactly(sock, int.from_bytes(head[2:], "big")) if head else b""


def exactly(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = sock.recv(count - len(got))
        if not more:
            return b""
        got += more
    return got


def shape(answer: bytes) -> Any:
    """What of an answer two acceptors have to agree on."""
    if not answer:
        return "closed"
    if answer[0] == 2:
        accept = A_ASSOCIATE_AC()
        accept.decode(answer)
        results = [
            (c.context_id, c.result, None if c.result else c.transfer_syntax)
            for c in accept.presentation_context
        ]
        return "accept", sorted(results), accept.user_information.maximum_length
    if answer[0] == 3:
        return "reject", *answer[7:10]
    if answer[0] == 7:
        return "abort", answer[8]
    if answer[0] == 4:
        command = answer[12:]
        found: dict[int, bytes] = {}
        at = 0
        while at < len(command):
            _, element, length = struct.unpack_from("<HHI", command, at)
            found[element] = command[at + 8 : at + 8 + length]
            at += 8 + length
        return "data", answer[10], answer[11], found[0x100], found[0x120], found[0x900]
    return answer[0]


SAME: dict[str, tuple[bytes, ...]] = {
    "echo": (request(), data(1, 3, echo()), RELEASE),
    "two echoes": (request(), data(1, 3, echo(1)), data(1, 3, echo(2)), RELEASE),
    "store": (request(), data(3, 3, store()) + data(3, 2, BODY), RELEASE),
    "store in one PDU": (
        request(),
        pdu(4, fragment(3, 3, store()) + fragment(3, 2, BODY)),
        RELEASE,
    ),
    "store in fragments of 16 bytes": (
        request(),
        data(3, 1, store()[:20])
        + data(3, 3, store()[20:])
        + b"".join(data(3, 0, BODY[i : i + 16]) for i in range(0, len(BODY), 16))
        + data(3, 2, b""),
        RELEASE,
    ),
    "store as implicit": (
        request([(5, CT, [IMPLICIT])]),
        data(5, 3, store()) + data(5, 2, encode(data_set(), IMPLICIT)),
        RELEASE,
    ),
    "release at once": (request(), RELEASE),
    "no limit on PDUs": (request(max_length=0), data(1, 3, echo()), RELEASE),
    "unknown abstract syntax": (request([(1, "1.2.3.4", [IMPLICIT]), (3, ECHO, [IMPLICIT])]),),
    "unknown transfer syntax": (request([(1, CT, [DEFLATED, BIG_ENDIAN])]),),
    "nothing acceptable": (request([(1, "1.2.3", ["1.2.4"])]), RELEASE),
    "the same class in two contexts": (request([(1, CT, [EXPLICIT]), (3, CT, [IMPLICIT])]),),
    "a wrong called title": (request(called=b"OTHER"),),
    "another protocol version": (request(version=2),),
    "data before the request": (data(1, 3, echo()),),
    "release before the request": (RELEASE,),
    "abort before the request": (ABORT,),
    "an answer instead of a request": (pdu(2, request()[6:]),),
    "a reject instead of a request": (pdu(3, bytes([0, 1, 1, 1])),),
    "a second request": (request(), request()),
    "an unrecognised PDU": (request(), pdu(0x99, b"abcd")),
    "a release answer": (request(), pdu(6, bytes(4))),
    "an associate answer": (request(), pdu(2, request()[6:])),
    "abort within the association": (request(), ABORT),
}


@pytest.mark.parametrize("name", list(SAME))
def test_the_answers_are_those_of_pynetdicom(
    listening: Listening, reference: Peer, name: str
) -> None:
    script = SAME[name]
    assert play(listening.peer, *script) == play(reference, *script)


def odd_ids() -> bytes:
    return request([(2, ECHO, [IMPLICIT])])


STRICTER: dict[str, tuple[tuple[bytes, ...], Any]] = {
    # The sender names first what its instances are kept in; ours takes it, pynetdicom takes the
    # first of its own list. Both are allowed (PS3.8 9.3.3.2).
    "the sender's first transfer syntax": (
        (request([(1, CT, [IMPLICIT, EXPLICIT])]),),
        [("accept", [(1, 0, IMPLICIT)], 131072)],
    ),
    # PS3.8 9.3.2: who knows one version tests bit 0 alone; pynetdicom rejects what has other bits.
    "several protocol versions": (
        (request([(1, ECHO, [IMPLICIT])], version=3),),
        [("accept", [(1, 0, IMPLICIT)], 131072)],
    ),
    # PS3.8 A.2.1: DICOM has one application context; pynetdicom accepts any.
    "another application context": ((request(application=b"1.2.3"),), [("reject", 1, 1, 2)]),
    # PS3.8 9.3.2.2: ids are odd; pynetdicom answers a context id it should not have been sent.
    "context ids are odd": ((odd_ids(),), [("abort", 0)]),
    # PS3.8 9.3.2.2: and differ from each other.
    "context ids differ": (
        (request([(1, ECHO, [IMPLICIT]), (1, CT, [IMPLICIT])]),),
        [("abort", 0)],
    ),
    # PS3.7 E.1 and PS3.4 B: a UID in the command that is not that of the data set.
    "the instance is the one the command names": (
        (request(), data(3, 3, store(sop_uid="1.2.3")) + data(3, 2, BODY)),
        ["data", number(0xA900)],
    ),
    # PS3.8 9.3.1: a PDU over the maximum that we announced is an invalid one (AA-8).
    "a PDU over the announced maximum": (
        (request(), b"\x04\0" + struct.pack(">I", 1 << 30) + bytes(64)),
        [("abort", 2)],
    ),
    # PS3.8 9.3.5: a PDV on a context that was not accepted.
    "data on a context that was refused": (
        (request([(1, ECHO, [IMPLICIT]), (3, "1.2.3", [IMPLICIT])]), data(3, 3, echo())),
        [("abort", 2)],
    ),
    # PS3.7 9.1.1: a data set that no command announced.
    "a data set without its command": ((request(), data(3, 2, BODY)), [("abort", 2)]),
    # PS3.7 6.3.1: a command within another message.
    "a command within a message": (
        (request(), data(3, 3, store()) + data(1, 3, echo())),
        [("abort", 2)],
    ),
    # PS3.7 6.3: what cannot be parsed cannot be answered (A-ABORT by the user).
    "a command that is none": ((request(), data(1, 3, b"\x08\0\x16\0\0\0\0\0")), [("abort", 0)]),
    # PS3.8 E.2: a fragment that is longer than its PDU.
    "a fragment longer than its PDU": (
        (request(), pdu(4, struct.pack(">IBB", 500, 1, 3) + bytes(20))),
        [("abort", 2)],
    ),
    # PS3.7 D.3.3.3.1: one operation at a time, said in so many words.
    "asynchronous operations": (
        (request(more=item(0x53, struct.pack(">HH", 8, 8))), data(1, 3, echo()), RELEASE),
        None,
    ),
}


@pytest.mark.parametrize("name", list(STRICTER))
def test_where_ours_is_stricter_it_is_so_on_purpose(listening: Listening, name: str) -> None:
    script, expected = STRICTER[name]
    seen = play(listening.peer, *script)
    if expected is None:
        assert [s if isinstance(s, int) else s[0] for s in seen] == ["accept", "data", 6]
    elif expected[0] == "data":
        assert seen[-1][0] == "data"
        assert seen[-1][-1] == expected[1]
    else:
        assert seen[-len(expected) :] == expected
    assert play(listening.peer, *SAME["echo"])[0][0] == "accept"  # and the next is served
