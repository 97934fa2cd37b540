"""Storage commitment asked by peers that do not want an answer (PS3.4 J)."""

from __future__ import annotations

import struct
from contextlib import ExitStack

import pytest

from scp.commitment_messages import Report
from scp.dimse import event_report
from tests.attacks.conftest import IDLE_S, PDU_S, SOON_S
from tests.attacks.test_instances import instance, new_uid
from tests.support.node import until
from tests.support.siege import Receiver, Siege
from tests.support.wire import (
    ABORT,
    CT,
    IMPLICIT,
    NO_DATA_SET,
    P_DATA,
    VERIFICATION,
    Context,
    RawPeer,
    Response,
    associate,
    command,
    echo_rq,
    element,
    message,
    p_data,
    store_rq,
    ui,
    us,
    value,
)

COMMITMENT, WELL_KNOWN = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
REQUEST = associate(
    (Context(1, VERIFICATION, (IMPLICIT,)), Context(3), Context(5, COMMITMENT, (IMPLICIT,)))
)
N_ACTION_RQ, N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP = 0x0130, 0x0100, 0x8100
SUCCESS, INVALID, NO_INSTANCE, NO_CLASS, NO_ACTION = 0, 0x0115, 0x0112, 0x0118, 0x0123
LIMIT_BYTES = 2 << 20
ANSWER_S = PDU_S + 1.0
SEQUENCE = struct.pack("<HHI", 0x0008, 0x1199, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def action(sop_class: str = COMMITMENT, sop_uid: str = WELL_KNOWN, kind: int = 1) -> bytes:
    """Return the command set of an N-ACTION-RQ (PS3.7 10.3.5)."""
    return command(
        {
            0x00000003: ui(sop_class),
            0x00000100: us(N_ACTION_RQ),
            0x00000110: us(1),
            0x00000800: us(1),
            0x00001001: ui(sop_uid),
            0x00001008: us(kind),
        }
    )


def asked(*uids: str) -> bytes:
    """Return the data set of a request for these instances of CT."""
    return Report(new_uid(), tuple((CT, uid) for uid in uids), ()).encode(IMPLICIT)


def reported(status: int, message_id: int) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RSP."""
    return command(
        {
            0x00000002: ui(COMMITMENT),
            0x00000100: us(N_EVENT_REPORT_RSP),
            0x00000120: us(message_id),
            0x00000800: us(NO_DATA_SET),
            0x00000900: us(status),
        }
    )


def ask(receiver: Receiver, command_set: bytes, content: bytes, chunk: int = 60_000) -> Response:
    """Send one request on an association of its own, which goes on."""
    with RawPeer(receiver.port) as peer:
        peer.open(REQUEST)
        peer.send(message(5, command_set, content, chunk))
        response = peer.answer()
        if response.status:
            assert peer.ask(1, echo_rq()).status == 0
            peer.release()
    return response


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 1000,
        asked("1.2.3")[:-3],
        asked(),
        asked("1.2.3/../../x"),
        element(0x00081195, b"no UID") + asked("1.2.3")[20:],
        SEQUENCE * 50_000,
        SEQUENCE + ITEM * 190_000,
        SEQUENCE + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) * 100_000,
    ],
    ids=["empty", "ones", "cut", "no-item", "path", "no-uid", "nested", "items", "open-items"],
)
def test_a_request_that_names_nothing_is_refused_with_a_comment(
    receiver: Receiver, siege: Siege, content: bytes
) -> None:
    response = ask(receiver, action(), content)
    assert response.status == INVALID
    assert 0 < len(response.comment) <= 64


@pytest.mark.parametrize(
    ("command_set", "status"),
    [
        (action(sop_class=CT), NO_CLASS),
        (action(sop_uid="1.2.3"), NO_INSTANCE),
        (action(kind=7), NO_ACTION),
    ],
    ids=["class", "instance", "action"],
)
def test_another_action_is_refused(
    receiver: Receiver, siege: Siege, command_set: bytes, status: int
) -> None:
    assert ask(receiver, command_set, asked("1.2.3")).status == status


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 1000,
        asked("1.2.3"),
        asked("1.2.3")[:-3],
        asked("1.2.3/../../x"),
        SEQUENCE * 50_000,
        SEQUENCE + ITEM * 190_000,
    ],
    ids=["empty", "ones", "unasked", "cut", "path", "nested", "items"],
)
def test_a_report_of_what_nobody_asked_for_is_refused_with_a_comment(
    receiver: Receiver, siege: Siege, content: bytes
) -> None:
    response = ask(receiver, event_report(5, COMMITMENT, WELL_KNOWN, 1), content)
    assert response.status == INVALID
    assert 0 < len(response.comment) <= 64


def test_a_request_without_end_is_gathered_up_to_its_limit(
    receiver: Receiver, siege: Siege
) -> None:
    fragment = p_data(value(5, bytes(60_000), command=False, last=False))
    with RawPeer(receiver.port) as peer:
        peer.open(REQUEST)
        peer.sock.settimeout(10)
        peer.send(message(5, action()))
        for _ in range(10 * LIMIT_BYTES // 60_000):
            peer.send(fragment)
        peer.send(p_data(value(5, b"", command=False, last=True)))
        response = peer.answer()
        assert response.status == INVALID
        assert "long" in response.comment
        peer.release()


def test_requests_as_long_as_they_may_be_at_once_keep_nobody_waiting(receiver: Receiver) -> None:
    """Full of the shortest elements: reading all of them took a good peer 2.4 s."""
    content = bytes(LIMIT_BYTES - 8)
    with Siege(receiver, memory_bytes=112 << 20), ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in range(25)]
        for peer in peers:
            peer.open(REQUEST)
        for peer in peers:
            peer.send(message(5, action(), content, 60_000))
        assert {peer.answer().status for peer in peers} == {INVALID}


def test_who_never_answers_a_report_is_let_go(receiver: Receiver, siege: Siege) -> None:
    uid, content = instance()
    with RawPeer(receiver.port) as peer:
        peer.open(REQUEST)
        assert peer.ask(3, store_rq(uid), content).status == SUCCESS
        assert peer.ask(5, action(), asked(uid)).status == SUCCESS
        said = peer.ends(PDU_S + IDLE_S + SOON_S)
    assert [h.kind for h in said] == [P_DATA, P_DATA, ABORT]
    assert Response.decode(said[0].body[6:]).number(0x00000100) == N_EVENT_REPORT_RQ


@pytest.mark.parametrize("message_id", [0, 2, 0xFFFF])
def test_an_answer_to_no_report_is_aborted(
    receiver: Receiver, siege: Siege, message_id: int
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open(REQUEST)
        peer.send(message(5, reported(SUCCESS, message_id)))
        assert [h.kind for h in peer.ends(SOON_S)] == [ABORT]


def test_requests_that_nobody_waits_for_leave_nothing(receiver: Receiver) -> None:
    uid, content = instance()
    with RawPeer(receiver.port) as peer:
        peer.open(REQUEST)
        assert peer.ask(3, store_rq(uid), content).status == SUCCESS
        peer.release()
    receiver.is_calm = False
    threads = receiver.usage().threads
    _ask_and_go(receiver, uid)  # connections to the journal stay open, up to a number
    until(lambda: receiver.usage().threads <= threads, 10, "associations to end")
    with Siege(receiver):
        _ask_and_go(receiver, uid)


def _ask_and_go(receiver: Receiver, uid: str) -> None:
    """Ask from 25 associations at once, and hang up before the answers."""
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in range(25)]
        for peer in peers:
            peer.open(REQUEST)
        for peer in peers:
            peer.send(message(5, action(), asked(uid)))


def test_a_request_for_more_instances_than_a_study_has_keeps_nobody_waiting(
    receiver: Receiver, siege: Siege
) -> None:
    root = new_uid()
    response = ask(receiver, action(), asked(*(f"{root}.{n}" for n in range(20_000))))
    assert response.status == SUCCESS
