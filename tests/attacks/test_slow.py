"""Attack 3: peers that take their time."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest

from tests.attacks.conftest import HANDSHAKE_S, IDLE_S, PDU_S
from tests.support.siege import SERVED_S, Receiver, Siege, shaken, tls_settings
from tests.support.wire import (
    ABORT,
    P_DATA,
    RawPeer,
    associate,
    echo_rq,
    message,
    p_data,
    pdu,
    value,
)

SLACK_S = 2.0
PARTING_S = 2.0
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


def _send_for_ever(peer: RawPeer, data: bytes, pause_s: float = 0.0) -> None:
    while True:  # until the receiver hangs up; a socket that only blocks times out
        peer.sock.sendall(data)
        time.sleep(pause_s)


@pytest.mark.parametrize("piece", [b"\0" * (1 << 20), b"\0"], ids=["flood", "drip"])
def test_who_goes_on_talking_after_the_end_is_let_go(
    receiver: Receiver, siege: Siege, piece: bytes
) -> None:
    """Bytes behind an A-ABORT are read, so that it arrives, and for two seconds at most."""
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(pdu(0x99, b""))
        assert peer.hear().kind == ABORT
        began = time.monotonic()
        peer.sock.settimeout(PARTING_S + SLACK_S)
        with pytest.raises(ConnectionError):
            _send_for_ever(peer, piece, 0 if len(piece) > 1 else DRIP_S)
        assert time.monotonic() - began < PARTING_S + SLACK_S


@pytest.fixture(scope="module")
def hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver with a TLS port, where no association lasts longer than three seconds."""
    folder = tmp_path_factory.mktemp("hurried")
    with Receiver(
        folder,
        handshake_timeout_s=HANDSHAKE_S,
        pdu_timeout_s=PDU_S,
        idle_timeout_s=IDLE_S,
        association_timeout_s=3,
        **tls_settings(folder),
    ) as receiver:
        yield receiver


def test_who_is_never_silent_and_never_done_is_aborted(hurried: Receiver) -> None:
    with Siege(hurried), RawPeer(hurried.port) as peer:
        began = time.monotonic()
        peer.open()
        while True:
            peer.send(message(1, echo_rq()))
            heard = peer.hear()
            if heard.kind == ABORT:
                break
            assert heard.kind == P_DATA
            assert time.monotonic() - began < 3 + SLACK_S
            time.sleep(DRIP_S)


def test_who_sends_fragments_of_nothing_for_ever_is_aborted(hurried: Receiver) -> None:
    """Each is a PDU that came in time, and a message that never gets any longer."""
    hollow = p_data(value(1, b"", command=True, last=False))
    with Siege(hurried), RawPeer(hurried.port) as peer:
        peer.open()
        seconds = drip(peer, hollow * 100)
        said, _ = peer.end()
    assert [h.kind for h in said] == [ABORT]
    assert seconds < 3 + SLACK_S


@pytest.mark.parametrize(
    "start",
    [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\xff\xff"],
    ids=["nothing", "a-byte", "half-a-hello", "a-long-record"],
)
def test_a_tls_handshake_that_stalls_is_let_go(hurried: Receiver, start: bytes) -> None:
    secure = hurried.tls_port
    with Siege(hurried):
        peers = [RawPeer(secure) for _ in range(10)]
        for peer in peers:
            peer.send(start)
        began = time.monotonic()
        for peer in peers:
            peer.end()
            peer.sock.close()
        assert time.monotonic() - began < HANDSHAKE_S + SLACK_S


def test_a_tls_hello_that_drips_is_let_go(hurried: Receiver) -> None:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
    with Siege(hurried), RawPeer(hurried.tls_port) as peer:
        seconds = drip(peer, hello)
    assert seconds < HANDSHAKE_S + SLACK_S


def test_plain_dicom_on_the_tls_port_is_let_go(hurried: Receiver) -> None:
    with Siege(hurried), RawPeer(hurried.tls_port) as peer:
        peer.send(associate())
        _, seconds = peer.end()
    assert seconds < HANDSHAKE_S + SLACK_S


@pytest.mark.parametrize("cut", [0, 5, 100])
def test_who_shakes_hands_and_stops_in_its_request_is_let_go(hurried: Receiver, cut: int) -> None:
    with Siege(hurried), shaken(hurried) as peer:
        peer.send(associate()[:cut])
        assert [h.kind for h in peer.ends(HANDSHAKE_S + SLACK_S)] in ([], [ABORT])


def test_a_request_that_drips_over_tls_ends_with_the_handshake(hurried: Receiver) -> None:
    with Siege(hurried), shaken(hurried) as peer:
        assert drip(peer, associate()) < HANDSHAKE_S + SLACK_S
        peer.ends(SLACK_S)


@pytest.mark.parametrize(
    "record", [b"\x17\x03\x03\0\x20" + bytes(32), b"\x17\x03\x03\xff\xff", b"\xff" * 1000]
)
def test_what_is_no_tls_record_within_an_association_ends_it(
    hurried: Receiver, record: bytes
) -> None:
    with Siege(hurried), shaken(hurried) as peer:
        peer.open()
        began = time.monotonic()
        socket.socket.sendall(peer.sock, record)  # below TLS
        with contextlib.suppress(ConnectionError):
            while socket.socket.recv(peer.sock, 4096):
                pass
        assert time.monotonic() - began < IDLE_S + SLACK_S


def test_a_good_peer_is_served_over_tls_while_others_stall(hurried: Receiver) -> None:
    with Siege(hurried):
        silent = [RawPeer(hurried.tls_port) for _ in range(10)]
        for number, peer in enumerate(silent):
            peer.send(b"\x16\x03\x01\x02\x00\x01"[: number % 6])
        began = time.monotonic()
        with shaken(hurried) as peer:
            peer.open()
            assert peer.ask(1, echo_rq()).status == 0
            peer.release()
        assert time.monotonic() - began < SERVED_S
        for peer in silent:
            peer.sock.close()
