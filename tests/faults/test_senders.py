"""I4, I9: senders that come all at once, and one that is sending as the receiver is told to end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from limen.command.send import send
from limen.errors import LimenError
from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, kept
from tests.support.node import Node, copy_study, until
from tests.support.services import program

SENDERS = 5
TERM_S = 30


@pytest.fixture
def node(own_folder: Path) -> Iterator[Node]:
    """A receiver alone."""
    own_folder.mkdir(parents=True)
    node = Node(own_folder, LIMEN_SCP__PROCESSES="2")
    try:
        node.start("scp")
        yield node
    finally:
        node.close()


def test_a_study_that_five_senders_bring_at_the_same_time_is_kept_once(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm")), tmp_path / "s")
    ledger = Ledger()
    storescu = [program("storescu", "dcmtk"), "-aec", node.peer.ae_title, "127.0.0.1"]

    def dcmtk() -> int:
        words = [*storescu, str(node.peer.port), *map(str, files)]
        done = subprocess.run(words, capture_output=True, timeout=60)
        return len(files) if done.returncode == 0 else 0

    def ours() -> int:
        return node.send(files).sent

    with ThreadPoolExecutor(SENDERS) as pool:
        came = [pool.submit(one) for one in (dcmtk, dcmtk, dcmtk, ours, ours)]
        assert [one.result() for one in came] == [len(files)] * SENDERS
    ledger.note(files)
    until(lambda: not kept(node, ledger), 20, "the rows", lambda: str(kept(node, ledger)))
    until(lambda: node.rows(uid)[0].state != "receiving", 20, "completion", node.tell)
    (row,) = node.rows(uid)
    assert row.instances == len(files)


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_receiver_that_is_told_to_end_in_the_middle_of_a_send_keeps_what_it_answered(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    slices = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    uid, files = copy_study(slices * 20, tmp_path / "s")
    ledger, told = Ledger(), 0
    assert node.supervisor is not None
    receiver = node.supervisor._children["scp"].process

    def on_file(_: Path) -> None:
        nonlocal told
        told += 1
        if told == len(files) // 4:
            receiver.send_signal(signal.SIGTERM)

    try:
        report = send(files, node.peer, "TESTSCU", TERM_S, on_file)
        ledger.note(p for p in files if p not in report.failed)
    except LimenError as exc:  # it is told that much
        pytest.fail(str(exc))
    assert receiver.wait(TERM_S + 5) == 0
    assert ledger.instances >= len(files) // 4
    node.stop()
    node.start("scp")
    assert node.send(files).sent == len(files)
    ledger.note(files)
    until(lambda: not kept(node, ledger), 20, "the rows", lambda: str(kept(node, ledger)))
    assert {row.study_uid for row in node.rows(uid)} == {uid}
    assert max(row.instances for row in node.rows(uid)) == len(files)
