"""scp.association: limits on peers, before and after the handshake."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom.association import Association

from limen.command.send import Peer, echo
from tests.support.associations import (
    ask,
    associate,
    associate_rq,
    connect,
    is_dropped,
    kept_files,
)
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set, encode
from tests.unit.scp.conftest import Listening
from tests.unit.scp.test_reference import data as command
from tests.unit.scp.test_reference import request
from tests.unit.scp.test_reference import store as store_command

RESULT_PERMANENT, SOURCE_USER = 1, 1
SOP_UID = f"{STUDY_UID}.1.1"


def answer_to(peer: Peer, pdu: bytes) -> bytes:
    with connect(peer) as sock:
        sock.sendall(pdu)
        return sock.recv(200)


def test_a_well_formed_request_is_accepted(listening: Listening) -> None:
    assert answer_to(listening.peer, associate_rq())[0] == 0x02  # A-ASSOCIATE-AC


@pytest.mark.parametrize("called", [b"OTHER", b"limen", b"LIMEN2"])
def test_a_wrong_called_title_is_rejected_with_its_reason(
    listening: Listening, called: bytes
) -> None:
    pdu = answer_to(listening.peer, associate_rq(called=called))
    assert pdu[:10] == bytes([3, 0, 0, 0, 0, 4, 0, RESULT_PERMANENT, SOURCE_USER, 7])


def test_an_unlisted_calling_title_is_rejected_with_its_reason(
    listen: Callable[..., Listening],
) -> None:
    peer = listen(peer=[{"ae_title": "CT1", "address": "127.0.0.1"}]).peer
    pdu = answer_to(peer, associate_rq(calling=b"MR1"))
    assert pdu[:10] == bytes([3, 0, 0, 0, 0, 4, 0, RESULT_PERMANENT, SOURCE_USER, 3])
    assert answer_to(peer, associate_rq(calling=b"CT1"))[0] == 0x02


def test_an_unlisted_address_is_closed_before_it_says_anything(
    listen: Callable[..., Listening],
) -> None:
    listening = listen(peer=[{"ae_title": "CT1", "address": "10.20.30.40"}])
    with connect(listening.peer) as sock:
        assert is_dropped(sock)


def test_a_rejected_association_is_over_for_both_sides(listening: Listening) -> None:
    assert answer_to(listening.peer, associate_rq(called=b"OTHER"))[0] == 3
    until(lambda: not listening.receiver.open_associations, 10, "the association to end")
    echo(listening.peer, "CT1")


@pytest.mark.parametrize("calling", [b"", b"CT\0 1", b"CT\xff1", b"CT1\0\0\0"])
def test_a_calling_title_outside_the_standard_opens_nothing(
    listening: Listening, calling: bytes
) -> None:
    assert answer_to(listening.peer, associate_rq(calling=calling))[0] in {0x03, 0x07}
    echo(listening.peer, "CT1")


def test_a_pdu_over_the_limit_is_dropped_without_being_read(listening: Listening) -> None:
    with connect(listening.peer) as sock:
        sock.sendall(b"\x01\0" + struct.pack(">I", 0xFFFFFFFF) + b"x" * 100)
        assert is_dropped(sock)
    echo(listening.peer, "CT1")


def test_a_pdu_over_the_limit_within_an_association_is_dropped(listening: Listening) -> None:
    with connect(listening.peer) as sock:
        sock.sendall(associate_rq())
        assert sock.recv(4096)[0] == 0x02
        sock.sendall(b"\x04\0" + struct.pack(">I", 0x7FFFFFFF))
        assert is_dropped(sock)


@pytest.mark.parametrize("pdu", [b"\x99\0" + struct.pack(">I", 4) + b"abcd", b"GET / HTTP/1.1\r\n"])
def test_what_is_no_dicom_is_dropped(listen: Callable[..., Listening], pdu: bytes) -> None:
    listening = listen(handshake_timeout_s=0.3)
    with connect(listening.peer) as sock:
        sock.sendall(pdu)
        assert is_dropped(sock)
    echo(listening.peer, "CT1")


@pytest.mark.parametrize("said", [b"", b"\x01", associate_rq()[:40]])
def test_a_peer_that_falls_silent_in_the_handshake_is_dropped(
    listen: Callable[..., Listening], said: bytes
) -> None:
    listening = listen(handshake_timeout_s=0.3)
    with connect(listening.peer, 5) as sock:
        sock.sendall(said)
        assert is_dropped(sock)


def test_a_peer_that_sends_a_byte_now_and_then_is_dropped(
    listen: Callable[..., Listening],
) -> None:
    """Each byte comes in time; the PDU does not."""
    listening = listen(handshake_timeout_s=0.5)
    pdu = associate_rq()
    with connect(listening.peer, 0.1) as sock:
        began = time.monotonic()
        ended = False
        for n in range(len(pdu)):
            try:
                sock.sendall(pdu[n : n + 1])
                ended = not sock.recv(100)
            except TimeoutError:  # this is the wait between two bytes
                continue
            except ConnectionError:
                ended = True
            if ended or time.monotonic() - began > 4:
                break
        assert ended
        assert time.monotonic() - began < 3


def test_a_silent_association_is_ended(listen: Callable[..., Listening]) -> None:
    listening = listen(idle_timeout_s=0.3)
    with connect(listening.peer, 5) as sock:
        sock.sendall(associate_rq())
        assert sock.recv(4096)[0] == 0x02
        assert is_dropped(sock)


def test_no_more_associations_than_allowed_are_open(listen: Callable[..., Listening]) -> None:
    listening = listen(max_associations=2)
    first, second = associate(listening.peer), associate(listening.peer)
    assert first.is_established
    assert second.is_established
    with connect(listening.peer) as sock:
        assert sock.recv(100) == bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2])
        assert is_dropped(sock)
    first.release()
    until(lambda: listening.receiver.open_associations < 2, 10, "room")
    echo(listening.peer, "CT1")
    second.release()


def test_no_more_associations_of_one_address_than_allowed_are_open(
    listen: Callable[..., Listening],
) -> None:
    listening = listen(max_associations_per_address=1)
    first = associate(listening.peer)
    with connect(listening.peer) as sock:
        assert sock.recv(100) == bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2])
    first.release()
    until(lambda: not listening.receiver.open_associations, 10, "room")
    echo(listening.peer, "CT1")


def test_an_association_that_lasts_too_long_is_ended_however_busy_it_is(
    listen: Callable[..., Listening],
) -> None:
    listening = listen(association_timeout_s=1.0)
    assoc = associate(listening.peer)
    until(lambda: not busy(assoc), 10, "the end of it")
    until(lambda: assoc.is_aborted, 10, "the abort to be noted")  # by another thread of the peer


def busy(assoc: Association) -> bool:
    if not assoc.is_established:
        return False
    return ask(assoc, encode(data_set()), SOP_UID, CTImageStorage) == 0


@pytest.mark.parametrize("cut", [1, 3])
def test_an_instance_that_stops_in_the_middle_leaves_nothing(
    listen: Callable[..., Listening], cut: int
) -> None:
    """Silence or a lost connection, with a part file on the disk already."""
    listening = listen(pdu_timeout_s=0.5)
    incoming = listening.config.spool_dir / "incoming"
    with connect(listening.peer) as sock:
        sock.sendall(request())
        assert sock.recv(4096)[0] == 0x02
        sock.sendall(command(3, 3, store_command()) + command(3, 0, encode(data_set())))
        for _ in range(4):
            sock.sendall(command(3, 0, bytes(60_000)))
        until(lambda: list(incoming.iterdir()), 10, "a part file")
        if cut == 1:
            sock.close()
        else:
            assert is_dropped(sock)
    until(lambda: not list(incoming.iterdir()), 10, "the part file to go")
    assert kept_files(listening.config.spool_dir) == []


@pytest.mark.parametrize("body", [b"", b"\x08\x00"])
def test_an_empty_data_set_cannot_be_understood(listening: Listening, body: bytes) -> None:
    with connect(listening.peer) as sock:
        sock.sendall(request())
        sock.recv(4096)
        sock.sendall(command(3, 3, store_command()) + command(3, 2, body))
        assert struct.pack("<HHIH", 0, 0x0900, 2, 0xC000) in sock.recv(4096)


@pytest.mark.parametrize("missing", [0x0002, 0x1000])
def test_a_command_without_its_uids_cannot_be_understood(
    listening: Listening, missing: int
) -> None:
    whole, at = store_command(), 0
    while True:
        _, element, length = struct.unpack_from("<HHI", whole, at)
        if element == missing:
            break
        at += 8 + length
    less = whole[:at] + whole[at + 8 + length :]
    with connect(listening.peer) as sock:
        sock.sendall(request())
        sock.recv(4096)
        sock.sendall(command(3, 3, less) + command(3, 2, encode(data_set())))
        answer = sock.recv(4096)
    assert struct.pack("<HHIH", 0, 0x0900, 2, 0xC000) in answer
    assert b"is missing" in answer
