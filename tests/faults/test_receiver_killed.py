"""I1, I2, I10: what was answered Success survives a SIGKILL of the receiver, unaided."""

from __future__ import annotations

import threading
from pathlib import Path

from pydicom import dcmread

from limen.uids import key_of
from models.ich.phantom import DemoStudy
from scp.spool import digest_of
from tests.node import Node, copy_study, until


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
            rows = {p for p in node.journal.paths() if p.startswith(key_of(uid))}
            assert rows == {f"{spool.name}/{p.name}" for p in spool.glob("*.dcm")}
            node.stop()
        node.start()
        assert node.send(files).sent == len(files)
        last = max(r.revision for r in node.rows(uid))
        row = node.finished(uid, last)
        assert row.outcome in {"negative", "partial"}
        assert row.images == len(files)
        assert len(list((node.config.spool_dir / key_of(uid)).glob("*.dcm"))) == len(files)
    finally:
        node.close()


def _send_and_kill(node: Node, files: list[Path], after: int):
    """Send, and kill the receiver when ``after`` instances were acknowledged."""
    from limen.send import send

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
