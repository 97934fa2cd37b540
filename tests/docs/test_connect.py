"""docs/connect.md: its settings of Orthanc and of Limen, loaded as they stand, do what it says.

Ports and the place of the script are the only words that are changed.
"""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import requests

from limen.journal import StudyRow
from models.ich.phantom import demo_studies
from tests.docs.conftest import Sandbox
from tests.support.node import Node, until
from tests.support.orthanc import Orthanc
from tests.support.pages import ROOT, Block, blocks
from tests.support.ports import free_ports

BLOCKS = list(blocks(ROOT / "docs" / "connect.md"))
CALLS, SEND, LOOK = [b for b in BLOCKS if b.run_by == "tests/docs/test_connect.py"]
_ORTHANC = BLOCKS[: BLOCKS.index(CALLS)]
"""What stands before its first command is of Orthanc, and of Limen beside it."""


def _only(language: str, beginning: str) -> Block:
    (found,) = [b for b in _ORTHANC if b.language == language and beginning in b.text]
    return found


@dataclass(frozen=True, slots=True)
class Scene:
    """Orthanc and Limen as the page sets them up, and a study for them."""

    sandbox: Sandbox
    orthanc: Orthanc
    study_uid: str
    instances: int

    @property
    def node(self) -> Node:
        return self.sandbox.node

    def arrived(self) -> StudyRow:
        """Wait until Orthanc vouches for all results of the study; return its only revision."""

        def committed() -> StudyRow | None:
            for row in self.node.rows(self.study_uid):
                states = {d.state for d in row.deliveries if d.destination == "orthanc"}
                if row.state == "done" and states == {"committed"}:
                    return row
            return None

        return until(committed, 90, "Orthanc to vouch for the results", self.node.tell)

    def modalities(self) -> set[str]:
        """Return the modalities that Orthanc has of the study."""
        return {tags["Modality"] for tags in self.orthanc.instances(self.study_uid)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("pacs")
    phantoms = {s.name: s for s in demo_studies(tmp_path_factory.mktemp("phantoms"))}
    bleed = phantoms["subdural"]
    dicom_port, scp_port = free_ports(2)
    script = folder / "limen.lua"
    script.write_text(_only("lua", "OnStableStudy").text, "utf-8")
    ports = {"4242": str(dicom_port), "11112": str(scp_port)}

    def as_here(text: str) -> str:
        for said, meant in ports.items():
            text = text.replace(said, meant)
        return text.replace("/etc/orthanc/limen.lua", str(script))

    settings = json.loads(as_here(_only("json", "DicomModalities").text))
    orthanc = Orthanc(folder / "orthanc", **{"dicomweb": True, **settings})
    (folder / "config.toml").write_text(as_here(_only("toml", "destination.pacs").text), "utf-8")
    tomllib.loads((folder / "config.toml").read_text("utf-8"))
    node = Node(
        tmp_path_factory.mktemp("node"),
        LIMEN_CONFIG=str(folder / "config.toml"),
        LIMEN_SCP__PORT=str(scp_port),
    )
    stand_ins = {
        "8042": str(orthanc.http_port),
        "ORTHANC@127.0.0.1:4242": f"ORTHANC@127.0.0.1:{dicom_port}",
        "STUDY": bleed.study_uid,
    }
    try:
        with orthanc:
            node.start()
            sandbox = Sandbox(folder, node, stand_ins)
            sandbox.environment["LIMEN_CONFIG"] = str(folder / "config.toml")
            shutil.copytree(bleed.folder, folder / "FOLDER")
            yield Scene(sandbox, orthanc, bleed.study_uid, len(bleed.files))
    finally:
        node.close()


def test_each_calls_the_other_and_the_doctor_finds_nothing_wrong(scene: Scene) -> None:
    said = scene.sandbox.run(CALLS)
    assert "failed" not in said.replace("0 failed", ""), said


@pytest.fixture(scope="module")
def row(scene: Scene) -> StudyRow:
    """The study, which was sent to Orthanc and whose results came back."""
    scene.sandbox.run(SEND)
    return scene.arrived()


def test_a_study_goes_through_orthanc_to_limen_and_its_results_come_back(
    scene: Scene, row: StudyRow
) -> None:
    assert (row.revision, row.outcome, row.instances) == (1, "positive", scene.instances)
    assert scene.modalities() >= {"CT", "SR", "SEG", "OT", "KO"}
    said = scene.sandbox.run(LOOK)
    assert "committed" in said
    assert "received, ORTHANC" in said
    assert "reproduced" in said
    jobs = requests.get(f"{scene.orthanc.url}/jobs?expand", timeout=30).json()
    (job,) = [one for one in jobs if one["Type"] == "DicomModalityStore"]
    assert job["State"] == "Success", job
    uid = job["Content"]["StorageCommitmentTransactionUID"]

    def vouched() -> bool:
        report = requests.get(f"{scene.orthanc.url}/storage-commitment/{uid}", timeout=30).json()
        assert report["Status"] != "Failure", report
        return bool(report["Status"] == "Success" and not report["Failures"])

    until(vouched, 30, "Limen to vouch for the study", scene.node.tell)


def test_a_pacs_that_forwards_the_results_too_has_nothing_analysed_anew(
    scene: Scene, row: StudyRow
) -> None:
    """As the rules of many a PACS do: all that it has of a study, whenever something comes."""
    there = scene.orthanc.instances(scene.study_uid)
    (study,) = scene.orthanc.find(scene.study_uid, "Study")
    sent = requests.post(
        f"{scene.orthanc.url}/modalities/limen/store", data=study["ID"], timeout=60
    )
    assert sent.json()["FailedInstancesCount"] == 0, sent.text
    keys = [tags["SOPInstanceUID"] for tags in there]
    assert len(keys) > scene.instances

    def kept() -> bool:
        paths = scene.node.journal.receiving.paths([row.study_key])
        return len(paths) == len(keys)

    until(kept, 30, "the results to be kept", scene.node.tell)
    assert [one.revision for one in scene.node.rows(scene.study_uid)] == [1]
    assert scene.node.journal.receiving.open_revisions() == []
