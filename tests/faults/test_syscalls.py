"""I1, I2, I10: a receiver that dies in any system call of its way to Success, or whose disk fails.

``make faults`` kills it in each of the first calls of each kind; the tests in some.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limen.command.send import send
from limen.errors import LimenError
from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, kept
from tests.support.node import Node, copy_study, until
from tests.support.strace import injected

WAYS = {
    "openat": "a part file and the folder of its study",
    "write": "its bytes",
    "link,linkat": "its name",
    "fsync": "file, folder and root",
    "unlink,unlinkat": "the part file again",
    "pwrite64": "its seal, and the journal",
    "fdatasync": "the journal",
}
"""Calls on the way of an instance, and what they are for."""
FEW = [("fsync", 1), ("fsync", 4), ("link,linkat", 2), ("fdatasync", 1)]
DEEP = os.environ.get("DEEP")
MOMENTS = [(calls, when) for calls in WAYS for when in range(1, 41)] if DEEP else FEW
INSTANCES = 5


def sent(node: Node, ledger: Ledger, files: list[Path]) -> int:
    """Send, note what was acknowledged, and return how much that was."""
    try:
        report = send(files, node.peer, "TESTSCU", 10)
    except LimenError:  # it died before it answered anything
        return 0
    ledger.note(p for p in files if p not in report.failed)
    return report.sent


def until_kept(node: Node, ledger: Ledger) -> None:
    """Wait until everything that was acknowledged is in spool and journal, and nothing else is."""
    until(lambda: not kept(node, ledger), 20, "all to be kept", lambda: str(kept(node, ledger)))


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(300 + 30 * len(MOMENTS))
def test_what_was_acknowledged_outlives_a_receiver_that_dies_in_any_system_call(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    node, ledger, died = Node(own_folder), Ledger(), 0
    slices = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))[:INSTANCES]
    again: list[Path] = []
    try:
        for calls, when in MOMENTS:
            node.start("scp")
            assert sent(node, ledger, again) == len(again)  # what the one before did not get
            _, files = copy_study(slices, tmp_path / f"{calls}-{when}")
            assert node.supervisor is not None
            receiver = node.supervisor._children["scp"].process
            fault = f"{calls}:signal=SIGKILL:when={when}"
            with injected(receiver.pid, fault, tmp_path / "strace"):
                if sent(node, ledger, files) < len(files):
                    receiver.wait(20)
                    died += 1
            node.stop()
            again = files
        node.start("scp")
        assert sent(node, ledger, again) == len(again)
        until(
            lambda: kept(node, ledger) == [], 20, "all to be kept", lambda: str(kept(node, ledger))
        )
        assert ledger.instances == INSTANCES * len(MOMENTS)
        assert died >= len(FEW) - 1  # the journal may be written when all is answered
    finally:
        node.close()


def test_a_disk_that_fails_is_out_of_resources_until_the_receiver_starts_anew(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    """After an error of fsync the kernel may have dropped what was written: nobody can know."""
    own_folder.mkdir(parents=True)
    node, ledger = Node(own_folder), Ledger()
    slices = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))[:INSTANCES]
    _, files = copy_study(slices, tmp_path / "study")
    try:
        node.start("scp")
        assert node.supervisor is not None
        with injected(node.supervisor.pid("scp"), "fsync:error=EIO:when=4", tmp_path / "strace"):
            report = node.send(files)
        assert report.sent == 1
        assert set(report.failed.values()) == {"0xA700"}
        ledger.note(p for p in files if p not in report.failed)
        assert node.send(files).sent == 0
        node.stop()
        node.start("scp")
        assert node.send(files).sent == len(files)
        ledger.note(files)
        until(
            lambda: kept(node, ledger) == [], 20, "all to be kept", lambda: str(kept(node, ledger))
        )
    finally:
        node.close()
