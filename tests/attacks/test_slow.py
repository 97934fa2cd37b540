"""Attack 3: peers that take their time."""

from __future__ import annotations

import contextlib
import select
import time

import pytest

from tests.attacks.conftest import HANDSHAKE_S, IDLE_S, PDU_S
from tests.attacks.siege import Receiver, Siege
from tests.attacks.wire import ABORT, RawPeer, associate, echo_rq, message, p_data, value

SLACK_S = 2.0
DRIP_S = 0.1


def drip(peer: RawPeer, data: bytes) -> float:
    """Send a byte now and then until the receiver hangs up; return the seconds it took."""
    began = time.monotonic()
    for n in range(len(data)):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sock.send(data[n : n + 1])
        readable, _, _ = select.select([peer.sock], [], [], DRIP_S)
        if readable:
            break
    return time.monotonic() - began


def test_who_connects_and_says_nothing_is_let_go(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        said, seconds = peer.end()
    assert [h.kind for h in said] in ([], [ABORT])
    assert seconds < HANDSHAKE_S + SLACK_S


@pytest.mark.parametrize("cut", [1, 5, 6, 100])
def test_half_a_request_is_not_waited_for(receiver: Receiver, siege: Siege, cut: int) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate()[:cut])
        said, seconds = peer.end()
    assert [h.kind for h in said] in ([], [ABORT])
    assert seconds < HANDSHAKE_S + SLACK_S


def test_a_request_that_drips_ends_with_the_handshake(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        seconds = drip(peer, associate())
        said, _ = peer.end()
    assert [h.kind for h in said] in ([], [ABORT])
    assert seconds < HANDSHAKE_S + SLACK_S


@pytest.mark.parametrize("whole", [0, 3, 30])
def test_a_p_data_that_drips_ends_with_its_deadline(
    receiver: Receiver, siege: Siege, whole: int
) -> None:
    data = message(1, echo_rq())
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(data[:whole])
        seconds = drip(peer, data[whole:-1])
        said, _ = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < PDU_S + IDLE_S * (whole == 0) + SLACK_S


def test_who_is_silent_within_an_association_is_aborted(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < IDLE_S + SLACK_S


def test_who_stops_between_the_fragments_of_a_message_is_aborted(
    receiver: Receiver, siege: Siege
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(p_data(value(1, echo_rq()[:20], command=True, last=False)))
        said, seconds = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < IDLE_S + SLACK_S


def test_who_asks_and_never_reads_the_answers_is_let_go(receiver: Receiver, siege: Siege) -> None:
    """The receiver's answers fill both buffers; from then on its writing has a deadline."""
    many = message(1, echo_rq()) * 500
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.sock.settimeout(PDU_S + IDLE_S + SLACK_S)
        with pytest.raises(ConnectionError):
            _send_for_ever(peer, many)


def _send_for_ever(peer: RawPeer, data: bytes) -> None:
    while True:  # until the receiver hangs up; a socket that only blocks times out
        peer.sock.sendall(data)
