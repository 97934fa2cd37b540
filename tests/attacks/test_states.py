"""PDUs that are known to nobody, or come when they must not (PS3.8 Table 9-10)."""

from __future__ import annotations

import pytest

from tests.attacks.conftest import IDLE_S, SOON_S
from tests.support.siege import Receiver, Siege
from tests.support.wire import (
    ABORT,
    ABORTION,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    C_CANCEL_RQ,
    C_FIND_RQ,
    CT,
    DATA_SET,
    EXPLICIT,
    NO_DATA_SET,
    P_DATA,
    RELEASE,
    RELEASE_RP,
    VERIFICATION,
    Context,
    Heard,
    RawPeer,
    Response,
    associate,
    command,
    echo_rq,
    message,
    p_data,
    pdu,
    store_rq,
    ui,
    us,
    value,
)


@pytest.mark.parametrize(
    "first",
    [
        message(1, echo_rq()),
        RELEASE,
        pdu(RELEASE_RP, bytes(4)),
        pdu(ASSOCIATE_AC, associate()[6:]),
        pdu(ASSOCIATE_RJ, bytes(4)),
        pdu(0x00, bytes(4)),
        pdu(0x08, bytes(4)),
        pdu(0xFF, bytes(4)),
        b"GET / HTTP/1.1\r\nHost: limen\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        bytes(4096),
        b"\xff" * 4096,
    ],
    ids=["p-data", "release-rq", "release-rp", "ac", "rj", "0", "8", "255", "http", "tls"]
    + ["zeros", "ones"],
)  # fmt: skip
def test_what_is_no_request_is_aborted_at_once(
    receiver: Receiver, siege: Siege, first: bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(first)
        said, seconds = peer.end()
    assert [h.kind for h in said] in ([], [ABORT])  # reset over unread bytes: the abort may be lost
    assert seconds < SOON_S


def test_an_abort_before_a_request_ends_the_connection(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(ABORTION)
        said, seconds = peer.end()
    assert said == []
    assert seconds < SOON_S


@pytest.mark.parametrize(
    "wrong",
    [
        associate(),
        pdu(ASSOCIATE_AC, associate()[6:]),
        pdu(ASSOCIATE_RJ, bytes(4)),
        pdu(RELEASE_RP, bytes(4)),
        pdu(0x00, bytes(4)),
        pdu(0x08, bytes(4)),
        pdu(0xFF, bytes(4)),
    ],
    ids=["rq", "ac", "rj", "release-rp", "0", "8", "255"],
)
def test_a_pdu_that_has_no_place_in_an_association_is_aborted(
    receiver: Receiver, siege: Siege, wrong: bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(wrong)
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert said[0].body[2] == 2  # PS3.8 9.3.8: source, the service provider
    assert seconds < SOON_S


def test_an_abort_ends_the_association_without_a_word(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(ABORTION)
        said, seconds = peer.end()
    assert said == []
    assert seconds < SOON_S


def test_what_follows_a_release_is_not_served(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(RELEASE + message(1, echo_rq()))
        said = peer.ends(SOON_S)
    assert [h.kind for h in said] in ([RELEASE_RP], [RELEASE_RP, ABORT], [])


@pytest.mark.parametrize("end", ["release", "reject", "abort"])
@pytest.mark.parametrize(
    "late",
    [
        associate(),
        pdu(ASSOCIATE_AC, associate()[6:]),
        pdu(ASSOCIATE_RJ, bytes(4)),
        message(1, echo_rq()),
        RELEASE,
        pdu(RELEASE_RP, bytes(4)),
        ABORTION,
        pdu(0x99, bytes(4)),
    ],
    ids=["rq", "ac", "rj", "p-data", "release-rq", "release-rp", "abort", "unknown"],
)
def test_nothing_that_follows_the_end_is_answered(
    receiver: Receiver, siege: Siege, end: str, late: bytes
) -> None:
    """PS3.8 Table 9-10, Sta13: read and dropped; where an A-ABORT may be sent none is needed."""
    with RawPeer(receiver.port) as peer:
        peer.send(associate(called="OTHER" if end == "reject" else "LIMEN"))
        if end != "reject":
            assert peer.hear().kind == ASSOCIATE_AC
            peer.send(RELEASE if end == "release" else pdu(0x99, b""))
        assert peer.hear().kind == {"release": RELEASE_RP, "reject": ASSOCIATE_RJ}.get(end, ABORT)
        peer.send(late)
        assert peer.ends(SOON_S) == []


@pytest.mark.parametrize("context", [0, 2, 5, 255])
def test_a_context_that_was_not_accepted_is_aborted(
    receiver: Receiver, siege: Siege, context: int
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(context, echo_rq()))
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < SOON_S


@pytest.mark.parametrize(
    "values",
    [
        [value(3, b"data", command=False, last=True)],
        [value(1, echo_rq()[:30], command=True, last=False)]
        + [value(1, b"data", command=False, last=True)],
        [value(3, store_rq("1.2.3"), command=True, last=True)]
        + [value(3, echo_rq(), command=True, last=True)],
        [value(3, store_rq("1.2.3"), command=True, last=True)]
        + [value(1, bytes(100), command=False, last=True)],
        [value(1, echo_rq()[:30], command=True, last=False)]
        + [value(3, echo_rq()[30:], command=True, last=True)],
    ],
    ids=["data-first", "data-within-command", "command-within-data", "other-context"]
    + ["command-over-contexts"],
)  # fmt: skip
def test_fragments_out_of_order_are_aborted(
    receiver: Receiver, siege: Siege, values: list[bytes]
) -> None:
    """PS3.8 Annex E: the fragments of a message follow one another on one context."""
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(p_data(*values))
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < SOON_S
    assert receiver.parts() == []


COMMANDS = {
    "empty": b"",
    "one-byte": b"\0",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "no-field": command({0x00000002: ui(VERIFICATION), 0x00000110: us(1)}),
    "no-message-id": command(
        {0x00000002: ui(VERIFICATION), 0x00000100: us(0x30), 0x00000800: us(NO_DATA_SET)}
    ),
    "group-8": command({0x00080016: ui(CT)}),
    "overrun": echo_rq()[:-2],
    "long-us": command({0x00000100: b"\x30\0\0\0", 0x00000110: us(1), 0x00000800: us(0x101)}),
    "response": command(
        {
            0x00000002: ui(VERIFICATION),
            0x00000100: us(0x8030),
            0x00000120: us(1),
            0x00000800: us(NO_DATA_SET),
            0x00000900: us(0),
        }
    ),
}


@pytest.mark.parametrize("raw", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_set_that_is_none_leaves_the_receiver_whole(
    receiver: Receiver, siege: Siege, raw: bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(p_data(value(1, raw, command=True, last=True)))
        _expect_refusal(peer)


def _expect_refusal(peer: RawPeer) -> None:
    """An A-ABORT, or a response whose status is not Success."""
    said = peer.ends(SOON_S)
    for heard in said:
        assert heard.kind == ABORT or _status(heard) != 0, heard
    assert said
    assert said[-1].kind == ABORT


def _status(heard: Heard) -> int:
    assert heard.kind == P_DATA
    return Response.decode(heard.body[6:]).status


def test_an_operation_that_is_not_ours_is_told_so(receiver: Receiver, siege: Siege) -> None:
    """PS3.7 C.5.7 (0x0211, unrecognized operation), 0x0112 or 0x0122; or the association ends."""
    find = command(
        {
            0x00000002: ui(CT),
            0x00000100: us(C_FIND_RQ),
            0x00000110: us(1),
            0x00000700: us(0),
            0x00000800: us(NO_DATA_SET),
        }
    )
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(3, find))
        heard = peer.hear()
        assert heard.kind == ABORT or _status(heard) in {0x0211, 0x0122, 0x0112}


def test_a_cancel_is_ignored(receiver: Receiver, siege: Siege) -> None:
    cancel = command({0x00000100: us(C_CANCEL_RQ), 0x00000120: us(1), 0x00000800: us(NO_DATA_SET)})
    with RawPeer(receiver.port) as peer:
        peer.open()
        for _ in range(5):
            peer.send(message(1, cancel))
            peer.send(message(3, cancel))
        assert peer.ask(1, echo_rq(7)).number(0x00000120) == 7
        peer.release()


def test_an_echo_that_promises_a_data_set_is_answered_or_aborted_not_waited_for(
    receiver: Receiver, siege: Siege
) -> None:
    echo = command(
        {
            0x00000002: ui(VERIFICATION),
            0x00000100: us(0x30),
            0x00000110: us(1),
            0x00000800: us(DATA_SET),
        }
    )
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(1, echo))
        said = peer.ends(SOON_S + IDLE_S)
    assert [h.kind for h in said] in ([ABORT], [P_DATA, ABORT])


def test_an_association_of_one_fragment_a_byte_is_served(receiver: Receiver, siege: Siege) -> None:
    raw = echo_rq()
    with RawPeer(receiver.port) as peer:
        peer.open()
        for n in range(len(raw)):
            last = n == len(raw) - 1
            peer.send(p_data(value(1, raw[n : n + 1], command=True, last=last)))
        assert peer.answer().status == 0
        peer.release()


def test_a_command_without_end_is_cut_off(receiver: Receiver, siege: Siege) -> None:
    fragment = p_data(value(1, bytes(60000), command=True, last=False))
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.sock.settimeout(10)
        for _ in range(2000):  # 120 MB
            peer.send(fragment)
        said, seconds = peer.end()
    assert [h.kind for h in said] in ([], [ABORT])
    assert seconds < SOON_S


def test_fragments_of_nothing_do_not_keep_an_association_open(
    receiver: Receiver, siege: Siege
) -> None:
    """Value items without a byte are progress for the socket, not for the message."""
    hollow = p_data(value(1, b"", command=True, last=False)) * 100
    with RawPeer(receiver.port) as peer:
        peer.open(associate([Context(1, VERIFICATION, (EXPLICIT, "1.2.840.10008.1.2"))]))
        peer.sock.settimeout(10)
        for _ in range(3000):
            peer.send(hollow)
        said = peer.ends(SOON_S + 2.0)  # 300,000 of them are read first
    assert [h.kind for h in said] in ([], [ABORT])
