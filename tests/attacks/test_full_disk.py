"""Attack 18: a disk that is full, and one that has room again."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attacks.test_instances import NO_SPACE, SUCCESS, instance, kept_digests, store
from tests.support.node import until
from tests.support.services import program, require_service
from tests.support.siege import Receiver, Siege
from tests.support.wire import RawPeer, message, store_rq

MIB = 1 << 20
DISK_MIB = 16


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver whose spool has a file system of 16 MiB for itself, and no watermark."""
    spool = tmp_path / "data" / "spool"
    spool.mkdir(parents=True)
    mount = [program("mount", "mount"), "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs"]
    done = subprocess.run([*mount, str(spool)], capture_output=True, check=False)
    require_service(done.returncode == 0, "only root can mount a small disk")
    try:
        with Receiver(tmp_path, pdu_timeout_s=1) as receiver:
            yield receiver
    finally:
        subprocess.run([program("umount", "mount"), str(spool)], check=True)


def test_a_full_disk_is_out_of_resources_until_it_has_room_again(cramped: Receiver) -> None:
    sent: list[str] = []
    with Siege(cramped):
        for _ in range(DISK_MIB):
            uid, content = instance(PixelData=bytes(3 * MIB))
            response = store(cramped, store_rq(uid), content)
            if response.status != SUCCESS:
                break
            sent.append(hashlib.sha256(content).hexdigest())
        assert response.status == NO_SPACE
        assert "space" in response.comment.lower()
        assert len(sent) >= 4
        assert cramped.parts() == []
        assert kept_digests(cramped) == set(sent)
        cramped.instances()[0].unlink()
        assert store(cramped, store_rq(uid), content).status == SUCCESS


def test_instances_that_fill_the_disk_together_and_break_off_leave_it_empty(
    cramped: Receiver,
) -> None:
    uid, content = instance(PixelData=bytes(12 * MIB))
    whole = message(3, store_rq(uid), content, chunk=60_000)
    with Siege(cramped):
        peers = [RawPeer(cramped.port) for _ in range(4)]
        for peer in peers:
            peer.open()
        for peer in peers:
            peer.send(whole[: 8 * MIB])
        for peer in peers:
            peer.sock.close()
        until(lambda: not cramped.parts(), 10, "part files to be gone", cramped.node.tell)
        assert store(cramped, store_rq(uid), content).status == SUCCESS
