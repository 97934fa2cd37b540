"""I5, I10: a PACS that dies and comes back, and a worker that dies too: 0 lost, 0 doubled."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

from limen.command.supervisor import Supervisor
from limen.states import ObjectState
from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until
from tests.support.orthanc import Orthanc
from tests.support.ports import free_ports

STUDIES = 9
OURS = "NOT FOR DIAGNOSTIC USE"


def audit(node: Node, orthanc: Orthanc, uids: list[str]) -> list[str]:
    """Compare what was predicted, what was noted, and what the PACS has; return what differs."""
    faults = []
    for uid in uids:
        (row,) = node.rows(uid)
        noted = [
            one
            for delivery in row.deliveries
            if delivery.destination == "orthanc"
            for one in delivery.objects
        ]
        there = Counter(
            i["SOPInstanceUID"]
            for i in orthanc.instances(uid)
            if i.get("SeriesDescription", "").endswith(OURS)
        )
        if row.state != "done":
            faults.append(f"{uid}: {row.state}")
        if "sr" not in {one.kind for one in noted}:
            faults.append(f"{uid}: no report was noted")
        faults += [
            f"{uid}: {one.kind} is {one.state.value}"
            for one in noted
            if one.state is not ObjectState.COMMITTED
        ]
        faults += [f"{uid}: {one.kind} lost" for one in noted if one.sop_uid not in there]
        faults += [f"{uid}: {n} times" for n in there.values() if n > 1]
        faults += [f"{uid}: not noted" for i in there if i not in {o.sop_uid for o in noted}]
    return faults


def test_a_pacs_that_goes_away_and_comes_back_has_every_object_once(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    here = {"name": "orthanc", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port}
    setting = json.dumps([{**here, "commitment": "required", "timeout_s": 5}])
    own_folder.mkdir(parents=True)
    node = Node(
        own_folder,
        LIMEN_DESTINATION__PACS=setting,
        LIMEN_QUEUE__PROBE_S="2",
        LIMEN_QUEUE__LEASE_S="5",
    )
    ours = ["LIMEN", "127.0.0.1", node.config.scp.port]
    orthanc = Orthanc(tmp_path / "orthanc", {"limen": ours}, dicom_port=port)
    uids: list[str] = []

    def sent(number: int) -> None:
        files = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))[:1]
        uid, copies = copy_study(files, tmp_path / f"study-{number}")
        assert node.send(copies).sent == len(copies)
        uids.append(uid)

    def arrived() -> bool:
        rows = [row for uid in uids for row in node.rows(uid)]
        return len(rows) == STUDIES and all(
            any(d.destination == "orthanc" for d in row.deliveries)
            and all(d.state == "committed" for d in row.deliveries if d.destination == "orthanc")
            for row in rows
        )

    first, second = (Supervisor(node.env, own_folder / n) for n in ("first", "logs"))
    try:
        node.start("scp")
        first.start(("worker",))
        with orthanc:
            for n in range(3):
                sent(n)
            until(lambda: orthanc.instances(uids[0]), 60, "a first report", node.tell)
            orthanc.kill()
            for n in range(3, 6):
                sent(n)
            until(
                lambda: (
                    (queue := node.journal.status.queues().get("orthanc")) is not None
                    and queue.away_s is not None
                ),
                60,
                "the PACS to be missed",
                node.tell,
            )
            os.kill(first.pid("worker"), signal.SIGKILL)
            orthanc.start()
            second.start(("worker",))
            for n in range(6, STUDIES):
                sent(n)
            until(arrived, 180, "every report to be vouched for", node.tell)
            assert audit(node, orthanc, uids) == []
    finally:
        first.stop()
        second.stop()
        node.close()
