"""Results in a PACS: a real Orthanc has the report in the study of the patient, and says so."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from limen.journal import StudyRow, WorkRow
from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, until
from tests.support.orthanc import Orthanc
from tests.support.pacs import Said, pacs, report_of_pairs, tell
from tests.support.ports import free_ports
from tests.support.services import answers, program

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def pacs_of(orthanc_port: int, **more: Any) -> dict[str, Any]:
    """Settings of one PACS."""
    here = {"name": "orthanc", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": orthanc_port}
    return {**here, **more}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Orthanc]]:
    """A node that sends to an Orthanc, which vouches for what it has."""
    (port,) = free_ports(1)
    setting = json.dumps([pacs_of(port, commitment="ask", reject_replaced=True)])
    node = Node(tmp_path_factory.mktemp("node"), LIMEN_DESTINATION__PACS=setting)
    ours = ["LIMEN", "127.0.0.1", node.config.scp.port]
    orthanc = Orthanc(
        tmp_path_factory.mktemp("orthanc"), {"limen": ours}, dicom_port=port, dicomweb=True
    )
    try:
        with orthanc:
            node.start()
            yield node, orthanc
    finally:
        node.close()


def delivery(row: StudyRow, phase: str = "prediction", name: str = "orthanc") -> WorkRow:
    (found,) = [d for d in row.deliveries if d.destination == name and d.phase == phase]
    return found


def committed(node: Node, uid: str, timeout_s: float = 60, revision: int = 1) -> StudyRow:
    """Wait until every delivery of a study revision to the PACS is vouched for."""

    def all_committed() -> StudyRow | None:
        for row in node.rows(uid):
            here = [d.state for d in row.deliveries if d.destination == "orthanc"]
            ended = row.revision == revision and row.state in {"done", "failed"}
            if ended and here and set(here) == {"committed"}:
                return row
        return None

    return until(all_committed, timeout_s, "the PACS to vouch for all", node.tell)


def test_the_report_is_in_the_study_of_the_patient(
    scene: tuple[Node, Orthanc], phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node, orthanc = scene
    files = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))
    uid, copies = copy_study(files, tmp_path, AccessionNumber="ACC-7", PatientID="P-77")
    assert node.send(copies).sent == len(copies)
    row = committed(node, uid)
    (report,) = [i for i in orthanc.instances(uid) if i["SOPClassUID"] == SR]
    assert (report["AccessionNumber"], report["PatientID"]) == ("ACC-7", "P-77")
    assert report["SeriesDescription"].endswith("NOT FOR DIAGNOSTIC USE")
    (one,) = [o for o in delivery(row).objects if o.kind == "sr"]
    assert one.sop_uid == report["SOPInstanceUID"]
    assert "SR" in found_by_c_find(orthanc.dicom_port, uid, "ORTHANC")
    found = requests.get(
        f"{orthanc.url}/dicom-web/studies/{uid}/instances",
        params={"SOPInstanceUID": one.sop_uid},
        headers={"Accept": "application/dicom+json"},
        timeout=30,
    )
    assert [i["00080018"]["Value"] for i in found.json()] == [[one.sop_uid]]


def test_what_explains_a_bleed_follows_and_all_of_it_is_vouched_for(
    scene: tuple[Node, Orthanc], phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node, orthanc = scene
    files = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, copies = copy_study(files, tmp_path)
    assert node.send(copies).sent == len(copies)
    row = committed(node, uid, 120)
    noted = {p: delivery(row, p).objects for p in ("prediction", "explanation")}
    assert {one.kind for one in noted["prediction"]} <= {"sr", "ko"}
    assert {one.kind for one in noted["explanation"]} >= {"sr", "seg", "sc", "pm"}
    there = {i["SOPInstanceUID"] for i in orthanc.instances(uid) if i["Modality"] != "CT"}
    assert there == {one.sop_uid for objects in noted.values() for one in objects}


def test_a_second_revision_rejects_what_the_pacs_has_of_the_first_and_nothing_else(
    scene: tuple[Node, Orthanc], phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node, orthanc = scene
    files = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, copies = copy_study(files, tmp_path)
    assert node.send(copies[:-1]).sent == len(copies) - 1
    first = committed(node, uid, 120)
    assert node.send(copies[-1:]).sent == 1
    second = committed(node, uid, 120, revision=2)
    there = ours(orthanc, uid)
    (note,) = [ds for ds in there.values() if _title(ds) == "113037"]
    named = {e.value for e in note.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    held = {one.sop_uid for d in first.deliveries for one in d.objects}
    assert named == held <= set(there)
    assert note.SOPInstanceUID in {one.sop_uid for one in delivery(second).objects}
    order = [(row, phase) for row in (first, second) for phase in ("prediction", "explanation")]
    reports = [
        there[next(o.sop_uid for o in delivery(row, phase).objects if o.kind == "sr")]
        for row, phase in order
    ]
    named_before = [_predecessors(one) for one in reports]
    assert named_before == [[], *([one.SOPInstanceUID] for one in reports[:-1])]


def ours(orthanc: Orthanc, uid: str) -> dict[str, Dataset]:
    """Return what an Orthanc has of us in a study, by SOP Instance UID."""
    bodies = (
        requests.get(f"{orthanc.url}/instances/{one['ID']}/file", timeout=30).content
        for one in orthanc.find(uid)
    )
    read = [dcmread(io.BytesIO(body)) for body in bodies]
    return {str(ds.SOPInstanceUID): ds for ds in read if ds.Manufacturer == "Limen"}


def _title(ds: Dataset) -> str:
    return str(ds.ConceptNameCodeSequence[0].CodeValue) if ds.Modality == "KO" else ""


def _predecessors(ds: Dataset) -> list[str]:
    return [
        str(one.ReferencedSOPInstanceUID)
        for study in ds.get("PredecessorDocumentsSequence", ())
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    ]


# -- PACS that others wrote, and one that does what a test says ------------------------------------


@pytest.fixture
def quick(phantoms: dict[str, DemoStudy], tmp_path: Path) -> Callable[[Node], str]:
    """Send a study that is soon predicted; return its UID."""
    count = itertools.count()

    def send(node: Node) -> str:
        files = sorted(Path(phantoms["no-bleed"].folder).glob("*.dcm"))[:1]
        uid, copies = copy_study(files, tmp_path / f"study-{next(count)}")
        assert node.send(copies).sent == len(copies)
        return uid

    return send


def arrived(node: Node, uid: str, state: str, name: str, timeout_s: float = 60) -> WorkRow:
    """Wait until the delivery of a prediction is in a state."""

    def there() -> WorkRow | None:
        found = [d for row in node.rows(uid) for d in row.deliveries if d.destination == name]
        return next((d for d in found if d.state == state), None)

    return until(there, timeout_s, f"{name} to be {state}", node.tell)


@pytest.mark.parametrize("name", ["storescp", "dcmqrscp"])
def test_the_archives_of_dcmtk_take_the_report(
    name: str, quick: Callable[[Node], str], own_folder: Path, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    folder = tmp_path / "archive"
    folder.mkdir()
    words = ["-aet", "ARCHIVE", "-od", str(folder), str(port)]
    if name == "dcmqrscp":
        config = tmp_path / "dcmqrscp.cfg"
        config.write_text(
            "NetworkTCPPort = 104\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\nARCHIVE {folder} RW (100, 1024mb) ANY\nAETable END\n"
        )
        words = ["-c", str(config), str(port)]
    setting = json.dumps([pacs_of(port, name="dcmtk", ae_title="ARCHIVE")])
    node = Node(own_folder, LIMEN_DESTINATION__PACS=setting)
    process = subprocess.Popen(
        [program(name, "dcmtk"), *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        node.start("scp", "worker")
        until(lambda: answers(port), 20, name)
        uid = quick(node)
        done = arrived(node, uid, "done", "dcmtk")
        assert "does not say that it keeps them" in done.last_error
        if name == "dcmqrscp":
            assert found_by_c_find(port, uid) == {"SR"}
        else:
            (path,) = [p for p in folder.iterdir() if dcmread(p).Modality == "SR"]
            assert dcmread(path).StudyInstanceUID == uid
    finally:
        process.terminate()
        process.wait(20)
        node.close()


def found_by_c_find(port: int, uid: str, called: str = "ARCHIVE") -> set[str]:
    """Return the modalities of the series that a PACS lists in a study."""
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID = "SERIES", uid
    asked.SeriesInstanceUID = asked.Modality = ""
    ae = AE(ae_title="LIMEN")
    ae.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    assert association.is_established
    try:
        answers_ = association.send_c_find(asked, StudyRootQueryRetrieveInformationModelFind)
        return {str(found.Modality) for _, found in answers_ if found is not None}
    finally:
        association.release()


def test_a_pacs_that_rejects_us_is_asked_once_and_again_when_a_person_says_so(
    quick: Callable[[Node], str], own_folder: Path
) -> None:
    (port,) = free_ports(1)
    with pacs(callers=("OTHER",), port=port) as stranger, pacs() as good:
        settings = [
            pacs_of(port, name="stranger", ae_title="PACS", commitment="off"),
            pacs_of(good.peer.port, name="good", ae_title="PACS", commitment="off"),
        ]
        node = Node(own_folder, LIMEN_DESTINATION__PACS=json.dumps(settings))
        try:
            node.start("scp", "worker")
            first = quick(node)
            arrived(node, first, "done", "good")
            until(
                lambda: node.journal.status.queues()["stranger"].unwelcome,
                20,
                "the rejection",
                node.tell,
            )
            second = quick(node)
            arrived(node, second, "done", "good")
            assert len(stranger.offered) == 1
            stranger.ae.require_calling_aet = []
            limen = [sys.executable, "-m", "limen", "retry", "stranger"]
            subprocess.run(limen, env=node.env, check=True, timeout=60)
            for uid in (first, second):
                arrived(node, uid, "done", "stranger")
            assert sorted(stranger.stored) == sorted(good.stored)
        finally:
            node.close()


def test_a_pacs_that_died_before_it_vouched_is_asked_again_when_it_is_back(
    quick: Callable[[Node], str], own_folder: Path
) -> None:
    """A restarted PACS has forgotten whom it owes a report: nobody waits an hour for it."""
    (port,) = free_ports(1)
    setting = pacs_of(port, ae_title="PACS", commitment="required")
    node = Node(own_folder, LIMEN_DESTINATION__PACS=json.dumps([setting]))
    try:
        node.start("scp", "worker")
        with pacs(Said(reports=False), port=port) as before:
            uid = quick(node)
            arrived(node, uid, "sent", "orthanc")
            assert len(before.asked) == 1
        missed = quick(node)
        until(
            lambda: node.journal.status.queues()["orthanc"].away_s is not None,
            20,
            "the PACS to be missed",
            node.tell,
        )
        with pacs(port=port) as after:
            for one in (uid, missed):
                arrived(node, one, "committed", "orthanc")
            assert not set(before.stored) & set(after.stored)
    finally:
        node.close()


def test_what_is_kept_in_part_is_completed_over_restarts_of_every_process(
    quick: Callable[[Node], str], own_folder: Path
) -> None:
    """It says nothing while the node is up, and what it lost while the worker is down."""
    said = Said(reports=False)
    with pacs(said) as there:
        setting = pacs_of(there.peer.port, ae_title="PACS", commitment="required")
        node = Node(own_folder, LIMEN_DESTINATION__PACS=json.dumps([setting]))
        try:
            node.start("scp", "worker")
            uid = quick(node)
            arrived(node, uid, "sent", "orthanc")
            node.stop()
            node.start("scp")
            ((transaction, asked),) = there.asked
            pairs = [(SR, one) for one in asked]
            assert tell(node.peer, report_of_pairs(transaction, pairs, lambda _: False)) == 0
            node.stop()
            said.reports = True
            node.start("scp", "worker")
            row = arrived(node, uid, "committed", "orthanc")
            assert [len(there.stored[one]) for one in asked] == [2] * len(asked)
            assert {one.state.value for one in row.objects} == {"committed"}
        finally:
            node.close()


def test_the_report_goes_by_stow_rs_too(
    quick: Callable[[Node], str], own_folder: Path, tmp_path: Path
) -> None:
    with Orthanc(tmp_path / "orthanc", dicomweb=True) as orthanc:
        setting = {"name": "web-pacs", "url": f"{orthanc.url}/dicom-web"}
        node = Node(own_folder, LIMEN_DESTINATION__DICOMWEB=json.dumps([setting]))
        try:
            node.start("scp", "worker")
            uid = quick(node)
            row = arrived(node, uid, "done", "web-pacs")
            sent = {one.sop_uid for one in row.objects}
            assert {i["SOPInstanceUID"] for i in orthanc.instances(uid)} == sent
        finally:
            node.close()
