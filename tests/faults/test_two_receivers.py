"""I2, I4: two receivers with one journal and one data folder; a study whose halves come to both."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study, until
from tests.support.postgresql import postgresql


def send_all(node: Node, files: list[Path], ledger: Ledger) -> None:
    """Send as a modality does: what was not taken again, until all is."""
    left = files
    while left:
        try:
            report = node.send(left)
        except Exception:  # noqa: BLE001 - it has just died: whatever its end looks like
            continue
        ledger.note(p for p in left if p not in report.failed)
        left = [p for p in left if p in report.failed]


# pynetdicom leaves the socket of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)
def test_halves_that_come_to_two_receivers_are_one_study_and_one_may_die(
    phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    slices = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    (whole, calm), (hit, rough) = (copy_study(slices, tmp_path / n) for n in ("calm", "rough"))
    ledger = Ledger()
    with postgresql("journal") as server:
        shared = {
            "LIMEN_JOURNAL__URL": server.url("journal"),
            "LIMEN_SCP__QUIET_S": "5",
            "LIMEN_SCP__RELEASE_QUIET_S": "5",  # both begin to send within it
        }
        first = Node(tmp_path / "a", **shared)
        second = Node(
            tmp_path / "b", LIMEN_NODE__DATA_DIR=str(first.config.data_dir), **shared
        )  # fmt: skip
        try:
            first.start()
            second.start("scp")
            halves = (first, calm[::2]), (second, calm[1::2])
            sending = [threading.Thread(target=send_all, args=(*h, ledger)) for h in halves]
            for thread in sending:
                thread.start()
            for thread in sending:
                thread.join()
            row = first.finished(whole, timeout_s=120)
            assert (row.outcome, row.instances) == ("negative", len(calm))
            assert len(first.rows(whole)) == 1

            other = threading.Thread(target=send_all, args=(first, rough[::2], ledger))
            other.start()
            assert not second.send(rough[1:4:2]).failed
            ledger.note(rough[1:4:2])
            second.kill("scp")
            second.stop()
            other.join()
            second.start("scp")
            send_all(second, rough[1::2], ledger)
            until(
                lambda: first.rows(hit) and first.rows(hit)[0].instances == len(rough),
                60, "all of it to have rows", first.tell,
            )  # fmt: skip
            newest = first.finished(hit, first.rows(hit)[0].revision, timeout_s=120)
            assert newest.outcome == "negative"
            assert audit(first, ledger) == []
        finally:
            second.close()
            first.close()
