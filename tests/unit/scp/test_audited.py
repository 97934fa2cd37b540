"""What the receiver tells the audit trail: each association's studies, and who was not let in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from limen.audit import Event, Kind, Trail
from limen.audit.notes import Notes
from limen.config import Config
from limen.instance import NewInstance
from scp.audited import Audited
from scp.header import Identity
from scp.spool import Spool
from tests.support.samples import data_set, encode, keep, new_instance, settings

OTHER = "1.2.826.0.1.9"


class Scene:
    def __init__(self, folder: Path, host: str = "localhost") -> None:
        self.config: Config = settings(folder, audit={"host": host})
        self.spool = Spool(self.config.spool_dir, 0)
        self.audited = Audited(Trail(self.config, "scp"), self.config.spool_dir)

    def kept(
        self, number: int = 1, syntax: str = ExplicitVRLittleEndian, **elements: Any
    ) -> NewInstance:
        """Keep an instance in the spool as one that was received."""
        ds = data_set(number, **elements)
        body = encode(ds, syntax)
        kept = keep(self.spool, Identity.of(body, syntax), body, syntax)
        row = new_instance(number, ds.StudyInstanceUID)
        return replace(row, path=kept.path, transfer_syntax=str(syntax))

    def events(self) -> list[Event]:
        notes = Notes(self.config.audit_dir, 1)
        return [notes.read(name) for name in notes.waiting()]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_an_association_is_told_when_it_is_over_one_event_a_study(scene: Scene) -> None:
    for number in (1, 2, 3):
        scene.audited.came(scene.kept(number, AccessionNumber="A1"), 7, "10.0.0.1")
    scene.audited.came(scene.kept(4, study_uid=OTHER, PatientID="Q"), 7, "10.0.0.1")
    scene.audited.came(scene.kept(5), 8, "10.0.0.2")
    assert scene.events() == []
    scene.audited.ended(7, "10.0.0.1")
    first, second = scene.events()
    assert (first.kind, first.peer, first.address) == (Kind.RECEIVED, "CT1", "10.0.0.1")
    assert (first.patient_id, first.accession) == ("P-4711", "A1")
    assert list(first.instances.values()) == [3]
    assert (second.study_uid, second.patient_id) == (OTHER, "Q")
    scene.audited.ended(7, "10.0.0.1")
    assert len(scene.events()) == 2


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("characters", "patient_id"), [("ISO_IR 100", "Äh-1"), ("ISO_IR 192", "患者-7"), (None, "P 1")]
)
def test_the_patient_id_is_read_as_it_was_sent(
    scene: Scene, syntax: str, characters: str | None, patient_id: str
) -> None:
    elements = {"SpecificCharacterSet": characters, "PatientID": patient_id}
    scene.audited.came(scene.kept(1, syntax, **elements), 1, "10.0.0.1")
    scene.audited.ended(1, "10.0.0.1")
    assert [e.patient_id for e in scene.events()] == [patient_id]


def test_a_study_without_a_patient_or_whose_file_is_gone_is_told_without(scene: Scene) -> None:
    scene.audited.came(scene.kept(1, PatientID=None), 1, "10.0.0.1")
    scene.audited.came(new_instance(9, OTHER), 1, "10.0.0.1")
    scene.audited.ended(1, "10.0.0.1")
    assert [e.patient_id for e in scene.events()] == ["", ""]


def test_a_peer_that_knocks_all_day_is_told_of_once_a_minute(scene: Scene) -> None:
    for n in range(50):
        scene.audited.rejected("no peer", f"EVIL{n}", "10.0.0.6")
    scene.audited.rejected("no peer", "EVIL", "10.0.0.7")
    events = scene.events()
    assert [(e.kind, e.outcome, e.address) for e in events] == [
        (Kind.REJECTED, 8, "10.0.0.6"),
        (Kind.REJECTED, 8, "10.0.0.7"),
    ]


def test_nothing_is_gathered_when_there_is_no_collector(tmp_path: Path) -> None:
    scene = Scene(tmp_path, host="")
    scene.audited.came(scene.kept(1), 1, "10.0.0.1")
    scene.audited.ended(1, "10.0.0.1")
    scene.audited.rejected("no peer", "EVIL", "10.0.0.6")
    assert not scene.config.audit_dir.exists()
