"""What the report says of a study: in codes, in numbers and in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from PIL import ImageDraw
from pydicom import Dataset

from limen.result import Finding, Outcome, Result
from tests.support import heads
from tests.support.explained import Studies
from tests.support.samples import result as sample
from worker.objects import Kind
from worker.objects.wording import sentences, summary


def groups(report: Dataset) -> list[dict[str, Any]]:
    """Return the measurement groups: meaning of each concept -> value as people read it."""
    (measured,) = (i for i in report.ContentSequence if _concept(i) == "Imaging Measurements")
    return [{_concept(i): _value(i) for i in g.ContentSequence} for g in measured.ContentSequence]


def study_of(report: Dataset) -> dict[str, Any]:
    """Return what is said of the study, in the same way."""
    (said,) = (i for i in report.ContentSequence if _concept(i) == "Qualitative Evaluations")
    return {_concept(i): _value(i) for i in said.ContentSequence}


def texts(report: Dataset) -> str:
    return "\n".join(str(e.value) for e in report.iterall() if e.keyword == "TextValue")


def _concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def _value(item: Dataset) -> Any:
    if item.ValueType == "CODE":
        return item.ConceptCodeSequence[0].CodeMeaning
    if item.ValueType == "NUM":
        return float(item.MeasuredValueSequence[0].NumericValue)
    return item.get("TextValue") or item.get("UID") or item.get("ReferencedSOPSequence")


def test_a_positive_study_is_said_to_be_positive_with_probability_threshold_and_model(
    studies: Studies,
) -> None:
    study = studies()
    report = study.data_set(Kind.SR, study.prediction)
    slices = groups(report)
    assert study_of(report)["Haemorrhage"] == "Present"
    assert max(s["Probability"] for s in slices) == study.prediction.finding.probability
    assert {(s["Algorithm Name"], s["Algorithm Version"]) for s in slices} == {("fake", "1")}
    said = texts(report)
    assert "Threshold 0.5" in said
    assert f"SHA-256 {study.prediction.model.sha256}" in said
    assert "13 of 13 slices analysed" in said
    assert len(slices) == 5
    assert all(s["Haemorrhage"] == "Present" for s in slices)


def test_a_negative_study_is_absent_and_how_much_was_analysed_is_said(studies: Studies) -> None:
    report = studies(heads.head(bleeds_mm=None)).data_set(Kind.SR)
    (whole,) = groups(report)
    assert whole["Haemorrhage"] == "Absent"
    assert study_of(report)["Haemorrhage"] == "Absent"
    assert study_of(report)["CAD Processing and Findings Summary"] == (
        "All algorithms succeeded; without findings"
    )
    assert "analysed, none found. 13 of 13 slices analysed" in texts(report)


def test_a_partial_study_is_undetermined_and_says_why(studies: Studies) -> None:
    datasets = heads.head(bleeds_mm=None)
    study = studies(datasets[:5] + datasets[8:])
    (whole,) = groups(study.data_set(Kind.SR))
    assert whole["Haemorrhage"] == "Undetermined"
    assert study.explanation.reason in texts(study.data_set(Kind.SR))


def test_a_study_that_nothing_looked_at_is_no_negative(studies: Studies) -> None:
    study = studies([heads.slice_of(heads.chest_hu(0), 0, 1, Modality="MR")])
    report = study.data_set(Kind.SR)
    (whole,) = groups(report)
    assert whole["Clinical finding"] == "Undetermined"
    assert "Probability" not in whole
    assert study_of(report)["CAD Processing and Findings Summary"].startswith(
        "No algorithms succeeded"
    )
    assert study.explanation.reason in texts(report)


def test_every_group_of_measurements_names_a_place_or_ohif_is_told_to_show_text(
    studies: Studies,
) -> None:
    study = studies()
    for result in (study.prediction, study.explanation):
        report = study.data_set(Kind.SR, result)
        assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
        (measured,) = (i for i in report.ContentSequence if _concept(i) == "Imaging Measurements")
        for group in measured.ContentSequence:
            kinds = [item.ValueType for item in group.ContentSequence]
            (number,) = (item for item in group.ContentSequence if item.ValueType == "NUM")
            inferred = [item.ValueType for item in number.get("ContentSequence", ())]
            assert "SCOORD" in kinds or inferred == ["SCOORD"]
    negative = studies(heads.head(bleeds_mm=None)).data_set(Kind.SR)
    assert negative.ConceptNameCodeSequence[0].CodeValue == "18748-4"


def test_a_report_is_preliminary_unverified_and_not_for_diagnostic_use(studies: Studies) -> None:
    report = studies().data_set(Kind.SR)
    assert (report.PreliminaryFlag, report.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert report.CompletionFlag == "COMPLETE"
    assert report.SeriesDescription == "AI report fake 1 - NOT FOR DIAGNOSTIC USE"
    assert report.ContributingEquipmentSequence[0].ManufacturerModelName == "fake"


def test_a_later_report_names_its_predecessor(studies: Studies) -> None:
    study = studies()
    (first,) = study.objects(study.prediction, wanted={Kind.SR}).built
    second = study.data_set(Kind.SR, replaces=[first.reference])
    (named,) = second.PredecessorDocumentsSequence
    (series,) = named.ReferencedSeriesSequence
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.sop_uid
    assert second.SOPInstanceUID != first.sop_uid


def test_where_the_members_of_a_model_disagree_nothing_is_called_present(studies: Studies) -> None:
    study = studies()
    images = [replace(image, positive=False) for image in study.explanation.images]
    finding = replace(study.explanation.finding, threshold=0.7, members=[0.4, 0.99])
    result = replace(
        study.explanation, outcome=Outcome.UNDETERMINED, finding=finding, images=images
    )
    report = study.data_set(Kind.SR, result)
    assert {group["Haemorrhage"] for group in groups(report)} == {"Undetermined"}
    assert study_of(report)["Haemorrhage"] == "Undetermined"
    assert "threshold 0.7" in texts(report)
    assert "Members of the model say 0.40, 0.99." in texts(report)


def study_called(outcome: Outcome, positive: int) -> Result:
    """Return a document of ten slices, all analysed."""
    finding = Finding("any", "Haemorrhage", 0.6, positive, 10, 10, threshold=0.7)
    return sample(outcome=outcome, finding=finding)


@pytest.mark.parametrize(
    ("outcome", "positive", "said"),
    [
        (Outcome.POSITIVE, 0, "All algorithms succeeded; with findings"),
        (Outcome.UNDETERMINED, 0, "All algorithms succeeded; with findings"),
        (Outcome.NEGATIVE, 2, "All algorithms succeeded; with findings"),
        (Outcome.NEGATIVE, 0, "All algorithms succeeded; without findings"),
        (Outcome.PARTIAL, 0, "Not all algorithms succeeded; without findings"),
    ],
)
def test_a_study_has_findings_where_it_or_one_of_its_slices_may_have_one(
    outcome: Outcome, positive: int, said: str
) -> None:
    assert summary(study_called(outcome, positive)).meaning == said


def test_a_negative_study_with_slices_above_their_threshold_is_not_said_to_show_none() -> None:
    first, *_ = sentences(study_called(Outcome.NEGATIVE, 2))
    assert first == (
        "Haemorrhage: analysed, the study is below its threshold. "
        "10 of 10 slices analysed, 2 of them at or above theirs."
    )
    assert "none found" in sentences(study_called(Outcome.NEGATIVE, 0))[0]


@pytest.mark.parametrize("outcome", [Outcome.UNDETERMINED, Outcome.NEGATIVE])
def test_no_slice_is_called_present_where_the_study_is_not(
    outcome: Outcome, studies: Studies
) -> None:
    study = studies()
    for result in (study.prediction, study.explanation):
        report = study.data_set(Kind.SR, replace(result, outcome=outcome))
        assert {group["Haemorrhage"] for group in groups(report)} == {"Undetermined"}
        named = {Outcome.UNDETERMINED: "Undetermined", Outcome.NEGATIVE: "Absent"}
        assert study_of(report)["Haemorrhage"] == named[outcome]


def test_what_is_undetermined_is_called_so_in_every_object(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = studies()
    first = replace(study.prediction, outcome=Outcome.UNDETERMINED)
    said = "Haemorrhage: undetermined, somebody has to look."
    assert said in texts(study.data_set(Kind.SR, first))
    assert said in texts(study.data_set(Kind.KO, first))
    drawn: list[str] = []
    text = ImageDraw.ImageDraw.text

    def draw(self: ImageDraw.ImageDraw, xy: Any, words: str, *more: Any, **named: Any) -> None:
        drawn.append(words)
        text(self, xy, words, *more, **named)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", draw)
    study.objects(first, wanted={Kind.SC})
    assert "Haemorrhage: undetermined, somebody has to look" in drawn
    drawn.clear()
    study.objects(replace(study.explanation, outcome=Outcome.UNDETERMINED), wanted={Kind.SC})
    assert sum("study: undetermined" in words for words in drawn) == 3
