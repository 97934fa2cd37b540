"""I1, I2, I10: what was answered Success survives a SIGKILL of the receiver, unaided."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE, evt

from limen.instance import NewCommitment
from limen.uids import key_of
from models.ich.phantom import DemoStudy
from scp.sop_classes import COMMITMENT
from scp.spool import digest_of
from tests.support.journals import paths
from tests.support.node import Node, copy_study, until

CT = "1.2.840.10008.5.1.4.1.1.2"
TICK_S = 5.0  # how often the receiver looks for requests


def test_every_success_is_in_spool_and_journal_after_sigkill_in_the_middle_of_a_send(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    own_folder.mkdir(parents=True)
    node = Node(own_folder)
    sources = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    uid, files = copy_study(sources * 5, tmp_path / "study")
    try:
        for round_ in range(3):
            node.start("scp")
            report = _send_and_kill(node, files, after=8 + 9 * round_)
            node.stop()
            acknowledged = [p for p in files if p not in report.failed][: report.sent]
            node.start("scp")
            until(lambda: node.rows(uid), 20, "the study in the journal", node.tell)
            spool = node.config.spool_dir / key_of(uid)
            for path in acknowledged:
                kept = spool / f"{key_of(dcmread(path).SOPInstanceUID)}.dcm"
                assert dcmread(kept).PixelData == dcmread(path).PixelData
                assert digest_of(kept)
            assert not list(spool.glob("*.part"))
            rows = {p for p in paths(node.journal) if p.startswith(key_of(uid))}
            assert rows == {f"{spool.name}/{p.name}" for p in spool.glob("*.dcm")}
            node.stop()
        node.start()
        assert node.send(files).sent == len(files)
        last = max(r.revision for r in node.rows(uid))
        row = node.finished(uid, last)
        assert row.outcome in {"negative", "partial"}
        assert row.instances == len(files)
        assert len(list((node.config.spool_dir / key_of(uid)).glob("*.dcm"))) == len(files)
    finally:
        node.close()


def test_a_request_for_commitment_outlives_the_receiver_by_its_lease(own_folder: Path) -> None:
    """With the lease that ships: the receiver dies while the peer lets it wait for an answer."""
    own_folder.mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        peer = {"ae_title": "CT1", "address": "127.0.0.1", "port": port}
        node = Node(own_folder, LIMEN_SCP__PEER=json.dumps([peer]))
        commitments = node.journal.commitments
        node.start("scp")
        commitments.ask(NewCommitment("1.2.3", "CT1", "127.0.0.1", ((CT, "1.2.3.4"),)))
        until(lambda: commitments.all()[0].state == "running", 10, "an attempt", node.tell)
        node.kill("scp")
        died = time.monotonic()
        node.stop()
    reported = threading.Event()

    def on_report(_: evt.Event) -> tuple[int, None]:
        reported.set()
        return 0, None

    ae = AE(ae_title="CT1")
    ae.add_supported_context(COMMITMENT, scu_role=False, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    desk = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        node.start("scp")
        queue = node.config.queue
        assert reported.wait(queue.lease_s + TICK_S + 5), node.tell()
        assert time.monotonic() - died < queue.lease_s + TICK_S + 5
        until(lambda: commitments.all()[0].state == "done", 10, "the row", node.tell)
    finally:
        desk.shutdown()
        node.close()


def _send_and_kill(node: Node, files: list[Path], after: int):
    """Send, and kill the receiver when ``after`` instances were acknowledged."""
    from limen.command.send import send

    done = threading.Semaphore(0)

    def on_file(_: Path) -> None:
        done.release()

    def killer() -> None:
        for _ in range(after):
            done.acquire()
        node.kill("scp")

    thread = threading.Thread(target=killer, daemon=True)
    thread.start()
    report = send(files, node.peer, "TESTSCU", timeout_s=5, on_file=on_file)
    thread.join(10)
    return report
