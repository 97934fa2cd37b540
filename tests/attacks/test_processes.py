"""Two receiving processes: the caps hold for both together; one that dies takes nobody along."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.attacks.test_instances import instance
from tests.support.node import until
from tests.support.siege import Receiver, Siege
from tests.support.wire import ASSOCIATE_AC, RawPeer, associate, echo_rq, message, store_rq

CAP = 30


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    with Receiver(
        tmp_path_factory.mktemp("pair"),
        processes=2,
        handshake_timeout_s=1,
        pdu_timeout_s=1,
        idle_timeout_s=2,
        max_associations=CAP + 10,
        max_associations_per_address=CAP,
    ) as receiver:
        until(lambda: len(receiver.pids()) > 2, 20, "two processes beside the first")
        yield receiver


def test_a_flood_gets_no_more_than_one_process_would_give(pair: Receiver) -> None:
    with Siege(pair, memory_bytes=96 << 20), ExitStack() as stack:
        peers = [stack.enter_context(RawPeer.saying(associate(), pair.port)) for _ in range(150)]
        heard = [peer.hear() for peer in peers]
        assert 20 <= sum(h.kind == ASSOCIATE_AC for h in heard) <= CAP
        assert all(h.rejection[:2] == (2, 3) for h in heard if h.kind == 3)


def test_instances_that_break_off_leave_no_part_file_in_either_process(pair: Receiver) -> None:
    uid, content = instance(PixelData=bytes(2 << 20))
    with Siege(pair, memory_bytes=96 << 20):
        for _ in range(8):
            with RawPeer(pair.port) as peer:
                peer.open()
                whole = message(3, store_rq(uid), content)
                peer.send(whole[: len(whole) // 2])
        until(lambda: not pair.parts(), 10, "part files to be gone")


def test_a_process_that_is_killed_is_replaced_and_its_part_files_go(pair: Receiver) -> None:
    uid, content = instance(PixelData=bytes(2 << 20))
    first, *children = pair.pids()
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(pair.port)) for _ in range(8)]
        for peer in peers:
            peer.open()
            whole = message(3, store_rq(uid), content)
            peer.send(whole[: len(whole) // 2])
        until(pair.parts, 10, "part files")
        for child in children:
            os.kill(child, signal.SIGKILL)
        for peer in peers:
            peer.end()
    until(lambda: not set(children) & set(pair.pids()), 20, "the dead to be gone")
    until(lambda: not pair.parts(), 20, "part files to be gone", pair.node.tell)
    assert pair.pid == first

    def served() -> bool:
        try:
            return pair.serves() < 5
        except (AssertionError, OSError):
            return False

    until(served, 20, "the receiver to serve again", pair.node.tell)
    with RawPeer(pair.port) as peer:
        peer.open()
        assert peer.ask(3, store_rq(uid), content).status == 0
        assert peer.ask(1, echo_rq()).status == 0
        peer.release()
