"""Attack 1: lengths that promise more, or less, than there is."""

from __future__ import annotations

import struct

import pytest

from tests.attacks.conftest import SOON_S
from tests.support.siege import Receiver, Siege
from tests.support.wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    ASSOCIATE_RQ,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    RawPeer,
    associate,
    echo_rq,
    p_data,
    pdu,
    value,
)

MIB = 1 << 20


@pytest.mark.parametrize("length", [MIB + 1, 200 * MIB, 0xFFFFFFFF])
def test_an_association_request_that_is_too_long_is_not_read(
    receiver: Receiver, siege: Siege, length: int
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(ASSOCIATE_RQ, b"", length))
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < SOON_S


def test_a_flood_behind_a_false_length_is_not_kept(receiver: Receiver, siege: Siege) -> None:
    """200 MB after a header: the library read all of it into memory before any check."""
    with RawPeer(receiver.port) as peer:
        peer.sock.settimeout(5)
        peer.send(pdu(ASSOCIATE_RQ, b"", 200 * MIB))
        for _ in range(200):
            peer.send(bytes(MIB))
        said, seconds = peer.end()
    # A connection that is closed over unread bytes is reset: the A-ABORT may be lost on the way.
    assert [h.kind for h in said] in ([], [ABORT])
    assert seconds < SOON_S


@pytest.mark.parametrize("excess", [1, MIB, 0xFFFFFFFF - 65536 - 6])
def test_a_p_data_over_the_announced_maximum_is_not_read(
    receiver: Receiver, siege: Siege, excess: int
) -> None:
    with RawPeer(receiver.port) as peer:
        announced = peer.open().max_length
        assert announced == 65536
        peer.send(pdu(P_DATA, b"", min(announced + 6 + excess, 0xFFFFFFFF)))
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < SOON_S


@pytest.mark.parametrize(
    "kind", [ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, RELEASE_RQ, RELEASE_RP, 0x99]
)
@pytest.mark.parametrize("length", [200 * MIB, 0xFFFFFFFF])
def test_a_pdu_without_data_that_is_too_long_is_not_read(
    receiver: Receiver, siege: Siege, kind: int, length: int
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(pdu(kind, b"", length))
        assert [h.kind for h in peer.ends(SOON_S)] == [ABORT]


def test_a_flood_behind_an_abort_is_not_kept(receiver: Receiver, siege: Siege) -> None:
    """An abort is one whatever its length says; nobody waits for the rest of it."""
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.sock.settimeout(5)
        peer.send(pdu(ABORT, b"", 0xFFFFFFFF))
        for _ in range(100):
            peer.send(bytes(MIB))
        assert peer.ends(SOON_S) == []


@pytest.mark.parametrize("length", [0, 1, 10, 67])
def test_an_association_request_without_its_fields_is_aborted(
    receiver: Receiver, siege: Siege, length: int
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(pdu(ASSOCIATE_RQ, bytes(length)))
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < SOON_S


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        struct.pack(">I", 0),
        struct.pack(">I", 1) + b"\1",
        struct.pack(">I", 0xFFFFFFFF) + b"\1\3",
        struct.pack(">I", 100) + b"\1\3" + bytes(10),
        value(1, echo_rq(), command=True, last=True) + b"\0\0",
    ],
    ids=["none", "half", "zero", "no-header", "4-GiB", "overrun", "tail"],
)
def test_value_items_that_do_not_fit_their_pdu_are_aborted(
    receiver: Receiver, siege: Siege, body: bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(pdu(P_DATA, body))
        said, seconds = peer.end()
    assert said[-1].kind == ABORT
    assert seconds < SOON_S


def test_item_lengths_that_overrun_the_request_are_aborted(
    receiver: Receiver, siege: Siege
) -> None:
    good = associate()
    # The lengths of: application context, presentation context, its abstract, its transfer syntax.
    for offset in (76, 101, 109, 130):
        assert good[offset - 2] in {0x10, 0x20, 0x30, 0x40}
        broken = good[:offset] + b"\xff\xff" + good[offset + 2 :]
        with RawPeer(receiver.port) as peer:
            peer.send(broken)
            said, seconds = peer.end()
        assert [h.kind for h in said][-1:] in ([], [ABORT]), offset
        assert seconds < SOON_S


def test_the_largest_p_data_that_was_announced_is_read(receiver: Receiver, siege: Siege) -> None:
    command_set = echo_rq()
    empty = value(1, b"", command=True, last=False)
    with RawPeer(receiver.port) as peer:
        announced = peer.open().max_length
        values = [value(1, command_set, command=True, last=True)]
        room = announced - len(values[0])
        values = [empty] * (room // len(empty)) + values
        peer.send(p_data(*values))
        assert peer.answer().status == 0
        peer.release()
