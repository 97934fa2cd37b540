"""Attack 2: more connections than anyone needs."""

from __future__ import annotations

import contextlib
import time
from contextlib import ExitStack

import pytest

from tests.attacks.conftest import HANDSHAKE_S, IDLE_S
from tests.support.node import until
from tests.support.siege import SERVED_S, Receiver, Siege
from tests.support.wire import ASSOCIATE_AC, ASSOCIATE_RJ, RawPeer, associate

MANY = 200


@pytest.mark.parametrize("say", [b"", b"\1\0", associate()], ids=["nothing", "half", "request"])
def test_two_hundred_connections_take_no_more_than_their_share(
    receiver: Receiver, siege: Siege, say: bytes
) -> None:
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer.saying(say, receiver.port)) for _ in range(MANY)]
        most = 0
        deadline = time.monotonic() + HANDSHAKE_S / 2
        while time.monotonic() < deadline:
            most = max(most, receiver.usage().threads)
            time.sleep(0.05)
        # 30 for this address, and a few for the good peer beside it.
        assert most <= siege.before.threads + 30 + 4
        began = time.monotonic()
        heard = [peer.hear() for peer in peers]
        rejected = [h for h in heard if h.kind == ASSOCIATE_RJ]
        accepted = [h for h in heard if h.kind == ASSOCIATE_AC]
        assert all(
            h.rejection[:2] == (2, 3) for h in rejected
        )  # transient, by the presentation layer
        assert len(accepted) <= 30
        if len(say) > 2:
            assert len(accepted) >= 20
        for peer in peers:
            peer.end()
        assert time.monotonic() - began < HANDSHAKE_S + IDLE_S + 4


def test_connections_from_many_addresses_take_no_more_than_the_cap_in_all(
    receiver: Receiver,
) -> None:
    """No siege: while a cap in all is used up a good peer is refused too, and told so."""
    receiver.is_calm = False
    before = receiver.usage()
    with ExitStack() as stack:
        peers = [
            stack.enter_context(RawPeer.saying(associate(), receiver.port, f"127.0.1.{1 + n % 50}"))
            for n in range(MANY)
        ]
        heard = [peer.hear() for peer in peers]
        assert receiver.usage().threads <= before.threads + 40
    assert {h.rejection for h in heard if h.kind == ASSOCIATE_RJ} == {(2, 3, 2)}
    assert 35 <= sum(h.kind == ASSOCIATE_AC for h in heard) <= 40
    until(lambda: receiver.usage().threads <= before.threads, 10, "threads to end")
    assert receiver.serves() < SERVED_S


def test_connections_that_come_and_go_leave_nothing(receiver: Receiver, siege: Siege) -> None:
    for number in range(300):
        with RawPeer(receiver.port) as peer:
            if number % 3 == 1:
                peer.send(associate())
            if number % 3 == 2:
                peer.send(associate())
                peer.hear()


def test_an_address_that_flooded_is_served_again_when_its_connections_ended(
    receiver: Receiver, siege: Siege
) -> None:
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(RawPeer(receiver.port))
    deadline = time.monotonic() + HANDSHAKE_S + 4
    while True:
        with contextlib.suppress(AssertionError), RawPeer(receiver.port) as peer:
            peer.open()
            peer.release()
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)
