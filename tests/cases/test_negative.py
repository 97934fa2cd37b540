"""A negative is a promise: studies as senders make them, each with its truth, outcome and reason.

Every study is built here and analysed by a backend that finds all blood it is shown, so that
what is tested is what the model is shown, and what is said of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from limen import config
from limen.result import Outcome, Result
from tests.support import synthetic
from tests.support.heads import (
    HEIGHTS_MM,
    STEP_MM,
    DirectDecoder,
    Reader,
    abdomen_hu,
    chest_hu,
    head,
    head_bundle,
    head_hu,
    slice_of,
)
from tests.support.synthetic import BrightBlood
from worker.serving.engine import Engine

POSITIVE, NEGATIVE, PARTIAL = Outcome.POSITIVE, Outcome.NEGATIVE, Outcome.PARTIAL
NOT_ANALYSED = Outcome.NOT_ANALYSED
CLEAN = {"bleeds_mm": None}
ONE = {"bleeds_mm": (0.0, 0.0)}
"""Only the slice at 0 mm bleeds."""

Study = list[FileDataset]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    bundle = head_bundle()
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        yield Reader(DirectDecoder(), engine, bundle)


@dataclass(frozen=True)
class Case:
    """A study, what is to be said of it, and words of the reason."""

    build: Callable[[], Study]
    outcome: Outcome
    reason: str


CASES: dict[str, Case] = {}


def case(outcome: Outcome, reason: str = "") -> Callable[[Callable[[], Study]], Any]:
    def keep(build: Callable[[], Study]) -> Callable[[], Study]:
        CASES[build.__name__] = Case(build, outcome, reason)
        return build

    return keep


def changed(study: Study, **changes: Any) -> Study:
    """Return the study with elements set, or taken away where the value is None."""
    for dataset in study:
        for keyword, value in changes.items():
            if value is None:
                if keyword in dataset:
                    delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
    return study


def code(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


def other_part(picture: Callable[..., np.ndarray], series: str = "1", **changes: Any) -> Study:
    """Return a series of another part of the body that nothing names."""
    silent = {"BodyPartExamined": None, "SeriesDescription": None, "field_mm": 400.0}
    return [
        slice_of(picture(float(z)), float(z), n, series, **silent | changes)
        for n, z in enumerate(HEIGHTS_MM, start=1)
    ]


# -- whole studies ---------------------------------------------------------------------------------


@case(NEGATIVE, "none of 13 slices at or above 0.5")
def whole_and_clean() -> Study:
    return head(**CLEAN)


@case(POSITIVE, "5 of 13 slices at or above 0.5")
def whole_and_bleeding() -> Study:
    return head()


@case(NEGATIVE)
def sparse_as_stated() -> Study:
    """Slices of 4 mm every 10 mm, as Spacing Between Slices says: nothing was lost."""
    return head(**CLEAN, SliceThickness=4, SpacingBetweenSlices=STEP_MM)


@case(NEGATIVE)
def base_thin_and_top_thick_in_one_series() -> Study:
    heights = [*np.arange(-50.0, 0.0, 4.0), *np.arange(4.0, 76.0, 8.0)]
    study = head(heights_mm=heights, **CLEAN)
    for dataset, z in zip(study, heights, strict=True):
        dataset.SliceThickness = 4 if z < 0 else 8
        dataset.AcquisitionNumber = dataset.InstanceNumber  # one rotation each
    return study


@case(NEGATIVE)
def base_and_cerebrum_as_two_series() -> Study:
    base = head("1", heights_mm=np.arange(-50.0, 0.0, 4.0), SliceThickness=4, **CLEAN)
    top = head("2", heights_mm=np.arange(4.0, 76.0, 8.0), SliceThickness=8, **CLEAN)
    return changed(base, SeriesDescription="BASE") + changed(top, SeriesDescription="CEREBRUM")


@case(POSITIVE, "of 22 slices")
def cerebrum_bleeds_while_the_base_has_more_slices() -> Study:
    base = head("1", heights_mm=np.arange(-50.0, 0.0, 4.0), SliceThickness=4, **CLEAN)
    return base + head("2", heights_mm=np.arange(4.0, 76.0, 8.0), SliceThickness=8)


# -- something is missing --------------------------------------------------------------------------


@case(PARTIAL, r"8 of 8 slices analysed.*gap between slices.*about 5 missing")
def bleeding_slices_lost() -> Study:
    return [d for d in head() if abs(d.SliceLocation) > 20]


@case(PARTIAL, "gap in the instance numbers: 1 missing")
def one_slice_lost() -> Study:
    return [d for d in head(**CLEAN) if d.InstanceNumber != 6]


@case(PARTIAL, "gap in the instance numbers: 2 missing .1 to 2.")
def first_slices_lost() -> Study:
    return head(**CLEAN)[2:]


@case(PARTIAL, "6 gaps between slices")
def every_other_slice_lost() -> Study:
    return head(**CLEAN)[::2]


@case(PARTIAL, "gap between slices")
def slices_lost_and_renumbered() -> Study:
    study = [d for d in head() if abs(d.SliceLocation) > 20]
    for number, dataset in enumerate(study, start=1):
        dataset.InstanceNumber = number
    return study


@case(PARTIAL, "70 mm of the 80 mm")
def upper_half_lost() -> Study:
    return head(**CLEAN)[:7]


@case(PARTIAL, "top of the head is not among the slices")
def top_lost() -> Study:
    return [d for d in head(**CLEAN) if d.SliceLocation <= 30]


@case(PARTIAL, "gap of .* mm between the series")
def nothing_between_base_and_cerebrum() -> Study:
    base = head("1", heights_mm=np.arange(-50.0, -20.0, 4.0), SliceThickness=4, **CLEAN)
    return base + head("2", heights_mm=np.arange(12.0, 76.0, 8.0), SliceThickness=8, **CLEAN)


@case(NOT_ANALYSED, "too few slices to judge: 1 slice; the model asks for at least 3")
def one_slice() -> Study:
    return head(heights_mm=[0.0])


@case(PARTIAL, "no slice says where it lies")
def no_place_at_all() -> Study:
    silent = dict.fromkeys(
        ("ImagePositionPatient", "ImageOrientationPatient", "SliceLocation"), None
    )
    return changed(head(**CLEAN), **silent)


@case(PARTIAL, r"8 of 9 slices analysed.*gap")
def pixels_of_the_bleeding_slice_cut_off() -> Study:
    study = [d for d in head() if not 0 < abs(d.SliceLocation) <= 20]
    for dataset in study:
        if dataset.SliceLocation == 0:
            dataset.PixelData = dataset.PixelData[:-1000]
    return study


@case(PARTIAL, "1 slice left out: holds no image")
def a_slice_without_pixels() -> Study:
    study = head(**ONE)
    del study[5].PixelData
    return study


# -- set aside, and analysed all the same ----------------------------------------------------------


@case(POSITIVE)
def orientation_differs_in_the_last_digits() -> Study:
    study = head(**ONE)
    for n, dataset in enumerate(study):
        cosine = "0.9549999" if n % 2 else "0.9550001"
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", cosine, "-0.2966058"]
    return study


@case(POSITIVE)
def another_matrix() -> Study:
    study = head(**ONE)
    study[5] = slice_of(head_hu(0.0, bleeds=True, side=128), 0.0, 6)
    return study


@case(POSITIVE)
def no_position() -> Study:
    study = head(**ONE)
    changed(study[5:6], ImagePositionPatient=None, SliceLocation=None)
    return study


@case(POSITIVE, "1 of 13 slices")
def one_position_for_all() -> Study:
    return changed(head(**ONE), ImagePositionPatient=[0, 0, 0])


@case(NEGATIVE)
def one_position_for_all_and_clean() -> Study:
    return changed(head(**CLEAN), ImagePositionPatient=[0, 0, 0])


@case(NEGATIVE)
def only_slice_location() -> Study:
    return changed(
        head(**CLEAN), ImagePositionPatient=None, ImageOrientationPatient=None, InstanceNumber=None
    )


@case(PARTIAL, "gap between slices")
def only_slice_location_with_a_gap() -> Study:
    study = [d for d in head(**ONE) if d.SliceLocation]
    return changed(
        study, ImagePositionPatient=None, ImageOrientationPatient=None, InstanceNumber=None
    )


@case(POSITIVE)
def another_kernel() -> Study:
    study = head(**ONE)
    study[5].ConvolutionKernel = "H60s"
    return study


@case(POSITIVE, "1 of 13 slices")
def a_series_that_a_copy_made_derived() -> Study:
    study = head(**ONE)
    for slice_ in study:
        slice_.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    return study


@case(PARTIAL, "1 slice left out: a derived image")
def a_derived_slice() -> Study:
    study = head(**ONE)
    study[5].ImageType = ["DERIVED", "PRIMARY", "OTHER"]
    return study


@case(POSITIVE, "1 of 14 slices")
def at_a_place_that_is_taken() -> Study:
    extra = slice_of(head_hu(0.0, bleeds=True), 0.0, 14)
    return [*head(**CLEAN), extra]


# -- who, and which --------------------------------------------------------------------------------


@case(PARTIAL, r"2 patients in one study: ONE.*ID P-1.*TWO.*ID P-2")
def two_patients() -> Study:
    one = changed(head("1", **CLEAN), PatientID="P-1", PatientName="ONE^PATIENT")
    return one + changed(head("2"), PatientID="P-2", PatientName="TWO^PATIENT")


@case(PARTIAL, "2 patients in one study")
def one_slice_of_another_patient() -> Study:
    study = head(**CLEAN)
    study[4].PatientID = "P-2"
    return study


@case(PARTIAL, "2 patients in one study")
def two_dates_of_birth() -> Study:
    return head("1", **CLEAN) + changed(head("2", **CLEAN), PatientBirthDate="19600101")


@case(NEGATIVE)
def a_name_in_two_writings() -> Study:
    other = changed(head("2", **CLEAN), PatientName="TEST^PERSON^^", PatientBirthDate="")
    return head("1", **CLEAN) + other


@case(POSITIVE, "13 SOP Instance UIDs stand for several contents")
def same_sop_uids_in_two_series() -> Study:
    other = head("2")
    first = head("1", **CLEAN)
    for one, two in zip(first, other, strict=True):
        two.SOPInstanceUID = two.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return first + other


@case(PARTIAL, "1 SOP Instance UID stands for several contents")
def same_sop_uid_with_other_bytes() -> Study:
    again = slice_of(head_hu(0.0, bleeds=False), 0.0, 6)
    again.StudyDescription = "sent again"
    return [*head(**CLEAN), again]


@case(NEGATIVE, "none of 13 slices")
def the_same_instance_twice() -> Study:
    return [*head(**CLEAN), *head(**CLEAN)[4:6]]


# -- several series and acquisitions ---------------------------------------------------------------


def twice(**second: Any) -> Study:
    """Return a series of two acquisitions, of which the second bleeds in one slice."""
    first = changed(head(**CLEAN), AcquisitionNumber=1, AcquisitionTime="101500")
    again = head(first=14, **ONE)
    return first + changed(again, **{"AcquisitionNumber": 2, "AcquisitionTime": "102500"} | second)


@case(POSITIVE, "1 of 26 slices")
def two_acquisitions_by_number() -> Study:
    return twice()


@case(POSITIVE, "1 of 26 slices")
def two_acquisitions_by_time() -> Study:
    return twice(AcquisitionNumber=1)


@case(POSITIVE, "1 of 26 slices")
def two_acquisitions_by_restart() -> Study:
    return changed(twice(), AcquisitionNumber=None, AcquisitionTime=None)


@case(PARTIAL, "gap")
def a_slice_of_the_second_acquisition_lost() -> Study:
    return [d for d in twice() if d.InstanceNumber != 19]


@case(PARTIAL, "13 of 26 slices analysed.*13 slices left out: a secondary image")
def second_acquisition_called_secondary() -> Study:
    return twice(ImageType=["ORIGINAL", "SECONDARY", "AXIAL"])


@case(PARTIAL, "13 of 26 slices analysed.*13 slices left out: contrast enhanced")
def second_acquisition_with_contrast_in_one_series() -> Study:
    return twice(ContrastBolusAgent="IOMERON")


@case(POSITIVE, "1 of 26 slices")
def second_acquisition_of_another_kernel() -> Study:
    return twice(ConvolutionKernel="H60s")


@case(POSITIVE)
def thin_and_thick() -> Study:
    thin = head("2", heights_mm=np.arange(-50.0, 71.0, 2.0), SliceThickness=2, **ONE)
    return head("1", **CLEAN) + thin


@case(POSITIVE, "5 of 13 slices")
def contrast_beside_native() -> Study:
    enhanced = head("2", heights_mm=np.arange(-50.0, 71.0, 2.0), SliceThickness=2, **CLEAN)
    return head("1") + changed(enhanced, ContrastBolusAgent="IOMERON 400")


def only(**changes: Any) -> Callable[[], Study]:
    return lambda: changed(head(**CLEAN), **changes)


for text in (
    *("CTA HEAD 1.0", "Kopf mit KM", "HEAD C+", "Head post contrast", "Angio Kopf", "HEAD POST"),
    *("Cerebro con contraste", "w/wo contrast", "CT VENOUS HEAD"),
):
    CASES[f"contrast by text: {text}"] = Case(
        only(SeriesDescription=text), NOT_ANALYSED, "contrast enhanced"
    )
for text in (
    *("Head w/o contrast", "Kopf ohne KM", "HEAD C-", "Kopf nativ", "NCCT Head"),
    *("Tete sans injection", "Cerebro sin contraste", "posterior fossa head", "non-contrast head"),
):
    CASES[f"no contrast by text: {text}"] = Case(only(SeriesDescription=text), NEGATIVE, "")
CASES["an agent named NONE"] = Case(only(ContrastBolusAgent="NONE"), NEGATIVE, "")
CASES["an agent against the text"] = Case(
    only(ContrastBolusAgent="IOMERON", SeriesDescription="Head nativ"),
    PARTIAL,
    "an agent is named, while the description says without contrast",
)


@case(POSITIVE, "5 of 13 slices")
def bone_beside_soft_tissue() -> Study:
    return head("1") + changed(head("2", **CLEAN), ConvolutionKernel="H60s")


@case(NEGATIVE, "none of 13 slices")
def bone_beside_clean_soft_tissue() -> Study:
    bone = head("2", heights_mm=np.arange(-50.0, 71.0, 2.0), SliceThickness=2, **CLEAN)
    return head("1", **CLEAN) + changed(bone, ConvolutionKernel="BONE")


@case(PARTIAL, "bone kernel, and no soft tissue of its place")
def only_bone() -> Study:
    return changed(head(**CLEAN), ConvolutionKernel="H60s")


@case(PARTIAL, "bone kernel, and no soft tissue of its place")
def soft_tissue_of_the_base_only() -> Study:
    soft = head("1", heights_mm=np.arange(-50.0, 0.0, 4.0), SliceThickness=4, **CLEAN)
    return soft + changed(head("2", **CLEAN), ConvolutionKernel="H60s")


def beside(**changes: Any) -> Callable[[], Study]:
    return lambda: head("1", **CLEAN) + changed(head("2"), **changes)


CORONAL = [1, 0, 0, 0, 0, -1]
for name, changes in {
    "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "reformat": {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    "coronal": {"ImageOrientationPatient": CORONAL},
    "perfusion map": {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CBF"]},
    "projection": {"SeriesDescription": "HEAD MIP 10.0"},
    "dose report": {"ImageType": ["DERIVED", "SECONDARY", "DOSE_INFO"]},
    "chest": {"BodyPartExamined": "CHEST", "SeriesDescription": "Thorax"},
}.items():
    CASES[f"{name} beside a head"] = Case(beside(**changes), NEGATIVE, "none of 13 slices")
CASES["chest beside a head"] = Case(
    lambda: head("1", **CLEAN) + other_part(chest_hu, "2", BodyPartExamined="CHEST"),
    NEGATIVE,
    "none of 13 slices",
)
CASES["a head that is called a chest, beside a head"] = Case(
    beside(BodyPartExamined="CHEST", SeriesDescription="Thorax"),
    PARTIAL,
    "left out by its header, but its pixels show a head",
)

# -- parts of the body -----------------------------------------------------------------------------

for name, changes in {
    "region code": {
        "BodyPartExamined": None,
        "SeriesDescription": "ABD 5.0",
        "AnatomicRegionSequence": code("818981001", "SCT", "Abdomen"),
    },
    "old region code": {
        "BodyPartExamined": None,
        "SeriesDescription": "5.0",
        "AnatomicRegionSequence": code("T-D3000", "SRT", ""),
    },
    "body part": {"BodyPartExamined": "LSPINE", "SeriesDescription": "5.0"},
    "series in German": {"BodyPartExamined": None, "SeriesDescription": "Becken 5.0"},
    "series in French": {"BodyPartExamined": None, "SeriesDescription": "POUMONS 2mm"},
    "series in Spanish": {"BodyPartExamined": None, "SeriesDescription": "Tórax 5.0"},
    "series in Japanese": {"BodyPartExamined": None, "SeriesDescription": "胸部単純"},
    "study": {
        "BodyPartExamined": None,
        "SeriesDescription": "5.0",
        "StudyDescription": "CT ABDOMEN",
    },
}.items():
    CASES[f"another part by {name}"] = Case(
        only(SpecificCharacterSet="ISO_IR 192", **changes), NOT_ANALYSED, "another body part"
    )
CASES["a chest that nothing names"] = Case(
    lambda: other_part(chest_hu), NOT_ANALYSED, "by its pixels no head: air-filled lungs"
)
CASES["an abdomen that nothing names"] = Case(
    lambda: other_part(abdomen_hu), NOT_ANALYSED, "by its pixels no head: a skull around soft"
)
CASES["a head that nothing names"] = Case(
    only(BodyPartExamined=None, SeriesDescription=None), NEGATIVE, ""
)
CASES["a bleeding head that nothing names"] = Case(
    lambda: changed(head(), BodyPartExamined=None, SeriesDescription=None), POSITIVE, ""
)
CASES["a chest in a series called head and chest"] = Case(
    lambda: other_part(chest_hu, SeriesDescription="Head Thorax"), NOT_ANALYSED, "lungs"
)


# -- heads that the model has not learned ----------------------------------------------------------

for text in ("Head POST OP", "CCT nach OP", "Head craniotomy check", "Z.n. Kraniektomie, Kopf"):
    CASES[f"after surgery by text: {text}"] = Case(
        only(SeriesDescription=text), PARTIAL, "13 of 13 slices analysed, none .*; after surgery"
    )
CASES["after surgery, and bleeding"] = Case(
    lambda: changed(head(), StudyDescription="HEAD POST-OP"),
    POSITIVE,
    "5 of 13 slices at or above 0.5; after surgery, as a description says .post op.",
)
CASES["before surgery"] = Case(only(StudyDescription="Pre-op craniotomy planning"), NEGATIVE, "")


def with_clip(study: Study) -> Study:
    """Return the study with metal of 10 mm in the brain of one slice."""
    y, x = (np.mgrid[:96, :96] - 47.5) * 2.5
    for dataset in study:
        if dataset.SliceLocation == 20:
            hu = dataset.pixel_array.copy()
            hu[np.hypot(x + 20, y) < 5] = 3071
            dataset.PixelData = hu.tobytes()
    return study


UNKNOWN: dict[str, tuple[dict[str, Any], Callable[[Study], Study], str]] = {
    "a child by its age": (
        {"min_age_years": 16},
        lambda study: changed(study, PatientAge="007Y"),
        "the patient is 7 years old, while the model has learned from 16 years on",
    ),
    "a child by two dates": (
        {"min_age_years": 16},
        lambda study: changed(study, PatientBirthDate="20250101", StudyDate="20260201"),
        "the patient is 13 months old, while",
    ),
    "a clip": ({"max_metal_mm2": 20}, with_clip, "metal inside the skull in 1 slice, up to"),
}


@pytest.mark.parametrize("name", list(UNKNOWN))
def test_a_head_that_the_model_has_not_learned_is_never_negative_and_a_bleed_stays_positive(
    name: str, tmp_path: Path
) -> None:
    accepts, change, told = UNKNOWN[name]
    found = []
    for bundle in (head_bundle(**accepts), head_bundle()):
        with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
            reader = Reader(DirectDecoder(), engine, bundle)
            found += [reader.result(tmp_path, change(s)) for s in (head(**CLEAN), head())]
    assert [r.outcome for r in found] == [PARTIAL, POSITIVE, NEGATIVE, POSITIVE]
    for result in found[:2]:
        assert f"; {told}" in result.reason
    assert told not in found[2].reason + found[3].reason


def test_an_adult_is_what_the_model_has_learned(tmp_path: Path) -> None:
    bundle = head_bundle(min_age_years=16, max_metal_mm2=20)
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        reader = Reader(DirectDecoder(), engine, bundle)
        assert reader.result(tmp_path, head(**CLEAN)).outcome is NEGATIVE


@pytest.mark.parametrize("name", list(CASES))
def test_a_study_gets_the_outcome_and_the_reason_that_are_true(
    name: str, reader: Reader, tmp_path: Path
) -> None:
    wanted = CASES[name]
    result = reader.result(tmp_path, wanted.build())
    assert result.outcome is wanted.outcome, result.reason
    assert re.search(wanted.reason, result.reason), result.reason
    assert Result.from_json(result.to_json()) == result
    if result.outcome is PARTIAL:
        assert re.search(r"\d+ of \d+ slices", result.reason)


def test_a_positive_study_says_what_is_missing(reader: Reader, tmp_path: Path) -> None:
    study = [d for d in head() if d.InstanceNumber not in {2, 3}]
    result = reader.result(tmp_path, study)
    assert result.outcome is POSITIVE
    assert "about 2 missing" in result.reason


def test_every_series_has_a_row_with_its_slices(reader: Reader, tmp_path: Path) -> None:
    result = reader.result(tmp_path, twice() + head("2"))
    rows = [(s.part, s.slices, s.analysed_slices, s.positive_slices) for s in result.series]
    assert rows == [(1, 13, 13, 0), (2, 13, 13, 1), (1, 13, 13, 5)]
    assert result.finding is not None
    assert (result.finding.positive_slices, result.finding.slices) == (6, 39)


def test_contents_of_one_uid_have_pictures_of_their_own(reader: Reader, tmp_path: Path) -> None:
    output = reader.output(tmp_path, same_sop_uids_in_two_series())
    keys = {(i.sop_uid, i.frame, i.copy) for i in output.result.images}
    assert len(keys) == len(output.files) == 26
    assert sorted({i.copy for i in output.result.images}) == [1, 2]


def test_a_budget_leaves_out_the_least_useful_series_and_says_so(tmp_path: Path) -> None:
    bundle = head_bundle(max_slices=20)
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        reader = Reader(DirectDecoder(), engine, bundle)
        result = reader.result(tmp_path, head("1", **CLEAN) + head("2", **CLEAN))
    assert result.outcome is PARTIAL
    assert "13 of 26 slices analysed" in result.reason
    assert "max_slices" in result.reason
    assert [s.selected for s in result.series] == [True, False]


def test_a_bundle_that_knows_contrast_looks_at_enhanced_series(tmp_path: Path) -> None:
    bundle = head_bundle(contrast=True)
    with Engine(bundle, config.Engine(max_wait_ms=1), backend=BrightBlood()) as engine:
        reader = Reader(DirectDecoder(), engine, bundle)
        study = changed(head(**CLEAN), ContrastBolusAgent="IOMERON")
        assert reader.result(tmp_path, study).outcome is NEGATIVE


def test_names_of_two_patients_stay_out_of_the_logs(
    reader: Reader, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    reader.result(tmp_path, two_patients())
    told = "".join([*capfd.readouterr(), caplog.text])
    assert "PATIENT" not in told
    assert "P-2" not in told


def test_frames_of_an_enhanced_instance_are_a_whole_head(reader: Reader, tmp_path: Path) -> None:
    frames = [head_hu(float(z), bleeds=z == 0) for z in HEIGHTS_MM]
    one = synthetic.enhanced(frames, [float(z) for z in HEIGHTS_MM])
    one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = Sequence([Dataset()])
    measures = one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing, measures.SliceThickness = [2.5, 2.5], STEP_MM
    result = reader.result(tmp_path, [one])
    assert (result.outcome, result.reason) == (POSITIVE, "1 of 13 slices at or above 0.5")
