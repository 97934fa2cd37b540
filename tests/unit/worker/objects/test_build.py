"""All objects of a study: whose they are, by which names, in the same bytes each time."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from limen.implementation import RESULT_SOP_CLASSES
from tests.support import heads, synthetic
from tests.support.explained import Studies, Study
from worker.objects import Built, Kind
from worker.objects.build import build, build_rejection
from worker.objects.check import check
from worker.objects.conformance import tables

DATED = {"StudyDate": "20260102", "StudyTime": "030405.123", "StudyID": "S1"}
FIRST = {Kind.SR, Kind.KO}
"""What a prediction gives."""


def read(built: Built) -> Dataset:
    return dcmread(BytesIO(built.body))


def test_a_prediction_gives_report_and_key_images_and_an_explanation_the_rest(
    studies: Studies,
) -> None:
    study = studies()
    first, second = study.objects(study.prediction), study.objects()
    assert first.refused == second.refused == ()
    assert [one.kind for one in first.built] == ["sr", "ko"]
    assert list(dict.fromkeys(one.kind for one in second.built)) == ["sr", "seg", "sc", "pm", "pr"]
    assert sum(one.kind is Kind.SC for one in second.built) == 3


def test_only_what_is_wanted_is_built(studies: Studies) -> None:
    study = studies()
    kinds = [one.kind for one in study.objects(wanted={Kind.SEG}).built]
    assert kinds == [Kind.SEG]


def test_the_same_study_gives_the_same_bytes_and_nothing_of_the_run(studies: Studies) -> None:
    study = studies(heads.head(**DATED))
    built = study.objects().built
    assert built == study.objects().built
    moments = {"DA": {"20260102", "19500101"}, "TM": {"030405.123"}, "DT": set()}
    for one in built:
        for element in read(one).iterall():
            if element.VR in moments and element.value:
                assert str(element.value) in moments[element.VR], (one.kind, element.keyword)


def test_another_revision_has_other_uids(studies: Studies) -> None:
    study = studies()
    later = replace(study.explanation, revision=2)
    uids = {one.sop_uid for one in (*study.objects().built, *study.objects(later).built)}
    assert len(uids) == 2 * len(study.objects().built)


def test_who_ran_it_and_when_changes_no_uid(studies: Studies) -> None:
    study = studies()
    elsewhere = replace(
        study.explanation,
        timings=replace(study.explanation.timings, received="2027-01-02T03:04:05Z"),
        provenance=replace(study.explanation.provenance, host="other"),
    )
    assert study.objects(elsewhere).built == study.objects().built


def test_each_object_lies_in_the_study_of_its_patient_with_a_high_series_number(
    studies: Studies,
) -> None:
    study = studies(heads.head(AccessionNumber="A7", ReferringPhysicianName="Dr^R", **DATED))
    series = {}
    for one in (*study.objects(study.prediction).built, *study.objects().built):
        dataset = read(one)
        assert dataset.StudyInstanceUID == synthetic.STUDY
        assert (dataset.PatientID, str(dataset.PatientName)) == ("P1", "Test^Person")
        assert (dataset.AccessionNumber, dataset.StudyID) == ("A7", "S1")
        assert dataset.SeriesNumber > 9900
        assert dataset.SeriesDescription.endswith("fake 1 - NOT FOR DIAGNOSTIC USE")
        series.setdefault(dataset.SeriesInstanceUID, set()).add(dataset.SOPClassUID)
    assert all(len(classes) == 1 for classes in series.values())


def test_the_conformance_statement_says_what_the_objects_are(studies: Studies) -> None:
    told = {row[0]: row for row in tables()["objects"]}
    assert list(told) == list(Kind)
    assert {row[1] for row in told.values()} == RESULT_SOP_CLASSES, "a result is known by its class"
    study = studies()
    for one in (*study.objects(study.prediction).built, *study.objects().built):
        dataset, (kind, sop_class, modality, number, begin, _) = read(one), told[one.kind]
        assert kind == one.kind
        assert (dataset.SOPClassUID, dataset.Modality) == (sop_class, modality)
        assert dataset.SeriesNumber == number
        assert dataset.SeriesDescription.startswith(begin.removesuffix("MODEL"))
        assert [name for name in tables()["always"] if name not in dataset] == []


def test_what_the_instances_lack_is_empty(studies: Studies) -> None:
    study = studies(heads.head(PatientBirthDate=None, PatientID=None))
    for one in study.objects().built:
        dataset = read(one)
        for keyword in ("PatientBirthDate", "PatientID", "AccessionNumber", "StudyDate"):
            assert not dataset[keyword].value


NAMES = {
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Latin-1": (["ISO_IR 100"], "Müller^Jürgen"),
    "UTF-8": (["ISO_IR 192"], "Wang^XiaoDong=王^小东"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_kept_byte_by_byte_with_their_character_sets(name: str, studies: Studies) -> None:
    sets, text = NAMES[name]
    study = studies(heads.head(SpecificCharacterSet=sets, PatientName=text))
    instance = dcmread(study.instances[0].path)
    given = instance.get_item("PatientName").value
    for one in (*study.objects(study.prediction).built, *study.objects().built):
        dataset = read(one)
        assert dataset.get_item("PatientName").value == given
        assert str(dataset.PatientName) == text
        assert dataset.SpecificCharacterSet == instance.SpecificCharacterSet


def test_a_meaning_outside_the_character_set_makes_it_utf_8(studies: Studies) -> None:
    study = studies(heads.head(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen"))
    finding = replace(study.explanation.finding, meaning="脳出血")
    report = study.data_set(Kind.SR, replace(study.explanation, finding=finding))
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert str(report.PatientName) == "Müller^Jürgen"


def test_a_study_of_two_patients_gives_no_object(studies: Studies) -> None:
    datasets = heads.head()
    datasets[3].PatientID, datasets[3].PatientName = "P2", "Other^Person"
    objects = studies(datasets).objects()
    assert objects.built == ()
    assert {one.reason for one in objects.refused} == {"the instances of the study name 2 patients"}


def test_a_picture_that_is_gone_refuses_what_shows_it_and_the_report_goes(
    studies: Studies,
) -> None:
    study = studies()
    objects = build(study.explanation, {}, study.instances, study.decoder, set(Kind))
    assert [one.kind for one in objects.built] == [Kind.SR]
    assert {one.kind for one in objects.refused} == {Kind.SEG, Kind.SC, Kind.PM, Kind.PR}
    assert "picture" in objects.refused[0].reason


def test_what_is_replaced_is_rejected_where_that_is_asked_for(studies: Studies) -> None:
    study = studies()
    first = (*study.objects(study.prediction).built, *study.objects().built)
    later = replace(study.prediction, revision=2)
    old = [one.reference for one in first]
    objects = build_rejection(later, study.instances, study.decoder, old)
    assert objects.refused == ()
    (built,) = objects.built
    note = read(built)
    assert (built.kind, note.ConceptNameCodeSequence[0].CodeValue) == (Kind.KO, "113037")
    named = {e.value for e in note.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert named == {one.sop_uid for one in first}
    others = build_rejection(later, study.instances, study.decoder, old[1:])
    assert others.built[0].sop_uid != built.sop_uid
    assert built.sop_uid not in {one.sop_uid for one in study.objects(later, wanted=FIRST).built}


def test_what_the_library_does_not_like_is_refused_and_ends_nothing(studies: Studies) -> None:
    study = studies()
    strange = replace(study.explanation, model=replace(study.explanation.model, name="a\\b"))
    objects = study.objects(strange)
    assert objects.built == ()
    assert {one.reason for one in objects.refused} == {"it cannot be built: ValueError"}


def test_a_negative_study_has_no_key_images(studies: Studies) -> None:
    study = studies(heads.head(bleeds_mm=None))
    assert [one.kind for one in study.objects(study.prediction).built] == [Kind.SR]


def test_a_page_stands_in_for_a_report_that_is_not_wanted(studies: Studies) -> None:
    study = studies(heads.head(bleeds_mm=None))
    page = study.data_set(Kind.SC, study.prediction)
    assert page.BurnedInAnnotation == "YES"
    assert (page.Rows, page.Columns, page.SamplesPerPixel) == (536, 1072, 3)


@pytest.fixture
def study(studies: Studies) -> Study:
    return studies(heads.head(**DATED))


def changed(study: Study, **elements: Any) -> Built:
    """Return the report with other elements."""
    (built,) = study.objects(wanted={Kind.SR}).built
    dataset = read(built)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    buffer = BytesIO()
    dataset.save_as(buffer)
    return replace(built, body=buffer.getvalue())


def test_an_object_that_is_not_what_it_says_must_not_leave(study: Study) -> None:
    assert check(changed(study)) is None
    assert "UIDs" in (check(changed(study, SOPInstanceUID="1.2.3")) or "")
    assert "NOT FOR" in (check(changed(study, SeriesDescription="AI")) or "")
    assert check(changed(study, Manufacturer="")) == "it lacks Manufacturer"
    assert check(replace(changed(study), body=b"no object")) == (
        "it cannot be read back: InvalidDicomError"
    )


def test_an_object_that_the_validator_finds_wrong_is_refused_without_its_values(
    study: Study,
) -> None:
    wrong = changed(study, PatientSex="SECRET", CompletionFlag="MAYBE")
    reason = check(wrong)
    assert reason is not None
    assert "CompletionFlag" in reason
    assert "SECRET" not in reason
    assert check(wrong, validate=False) is None


def test_a_study_whose_files_are_gone_is_refused_with_the_reason(study: Study) -> None:
    for instance in study.instances:
        Path(instance.path).unlink()
    (refused,) = study.objects(wanted={Kind.SR}).refused
    assert refused.reason == "no instance of the study can be read: its patient is not known"
