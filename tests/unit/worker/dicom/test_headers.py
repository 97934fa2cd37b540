"""A header says what the file says of geometry, acquisition, contrast, anatomy and patient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.support import synthetic
from tests.support.synthetic import head_hu, instance, save
from worker.dicom.headers import Code, Header, read


def item(**elements: Any) -> Dataset:
    found = Dataset()
    for keyword, value in elements.items():
        setattr(found, keyword, Sequence([value]) if isinstance(value, Dataset) else value)
    return found


def code(value: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning=meaning)


def header(folder: Path, **changes: Any) -> Header:
    return read(save(instance(**changes), folder, "one.dcm"))


def damaged(folder: Path, old: bytes, new: bytes, **changes: Any) -> Header:
    """Return the header of a file in which some bytes were replaced, of the same length."""
    path = save(instance(**changes), folder, "one.dcm")
    data = path.read_bytes()
    assert len(old) == len(new)
    assert old in data
    path.write_bytes(data.replace(old, new))
    return read(path)


def test_the_facts_of_a_plain_slice_are_those_of_its_only_frame(tmp_path: Path) -> None:
    found = header(
        tmp_path,
        AcquisitionNumber=3,
        AcquisitionDate="20240102",
        AcquisitionTime="101500.25",
        ContentTime="101501",
        AcquisitionUID="1.2.9",
        FrameOfReferenceUID="1.2.8",
        SliceLocation="12.5",
        SpacingBetweenSlices="-5",
        GantryDetectorTilt="17.25",
        PatientPosition="HFP",
        ProtocolName="Head routine",
        Manufacturer="ACME",
        IssuerOfPatientID="Ward",
        OtherPatientIDs=["A", "B"],
        ConvolutionKernel=["Hr40f", "3"],
    )
    frame = found.frames[0]
    assert (frame.acquisition_number, found.acquisition_number) == (3, 3)
    assert found.acquisition_time == frame.acquisition_time == "20240102101500.25"
    assert (found.acquisition_uid, found.frame_of_reference_uid) == ("1.2.9", "1.2.8")
    assert (found.location_mm, found.spacing_between_mm, found.tilt_degrees) == (12.5, -5, 17.25)
    assert (found.patient_position, found.protocol_name) == ("HFP", "Head routine")
    assert (found.patient_id_issuer, found.other_patient_ids) == ("Ward", ("A", "B"))
    assert (found.kernel, found.manufacturer, found.content_time) == ("HR40F\\3", "ACME", "101501")
    assert (frame.spacing_mm, frame.spacing_from) == ((0.5, 0.5), "PixelSpacing")
    assert frame.along_mm == 1
    assert found.faults == ()


def test_cosines_are_kept_to_the_last_digit_and_the_normal_points_to_the_head(
    tmp_path: Path,
) -> None:
    cosines = [1, 0, 0, 0, 0.9549999, -0.2966058]
    frame = header(tmp_path, ImageOrientationPatient=cosines).frames[0]
    assert frame.orientation == ((1, 0, 0), (0, 0.9549999, -0.2966058))
    assert frame.normal == pytest.approx((0, 0.2966, 0.955), abs=1e-3)
    prone = header(tmp_path, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0]).frames[0]
    assert prone.normal == (0, 0, 1)
    assert prone.along_mm == 1


@pytest.mark.parametrize(
    "cosines", [[0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [5, 0, 0, 0, 5, 0], [1, 0, 0]]
)
def test_an_orientation_that_cannot_be_is_unknown_and_said(
    tmp_path: Path, cosines: list[float]
) -> None:
    found = header(tmp_path, ImageOrientationPatient=cosines)
    assert found.frames[0].orientation is found.frames[0].along_mm is None
    assert "ImageOrientationPatient" in found.faults[0]


@pytest.mark.parametrize("keyword", ["NominalScannedPixelSpacing", "ImagerPixelSpacing"])
def test_another_spacing_stands_in_for_pixel_spacing(tmp_path: Path, keyword: str) -> None:
    found = header(tmp_path, PixelSpacing=None, **{keyword: [2, 1]})
    assert found.spacing_mm == (2, 1)
    assert found.frames[0].spacing_from == keyword


def test_a_spacing_of_zero_is_none(tmp_path: Path) -> None:
    assert header(tmp_path, PixelSpacing=[0, 0]).spacing_mm is None


def test_numbers_that_are_none_are_unknown_and_said(tmp_path: Path) -> None:
    found = damaged(tmp_path, b"0.5\\0.5 ", b"0,5\\0,5 ", InstanceNumber=None)
    assert found.spacing_mm is None
    assert found.instance_number is None
    assert found.faults == (
        "its PixelSpacing holds a comma where numbers have a point (PS3.5 6.2, DS)",
    )
    found = damaged(tmp_path, b"-16.0\\1.0", b"-16 0\\1.0")
    assert found.frames[0].position_mm is None
    assert found.faults == ("its ImagePositionPatient is not a number",)


@pytest.mark.parametrize(
    ("agent", "given"),
    [
        ("IOMERON 400", True),
        ("APPLIED", True),
        ("Non-ionic iodine", True),
        ("NONE", False),
        ("no", False),
        ("0", False),
        ("W/O CONTRAST", False),
        ("ohne KM", False),
        ("", None),
        (None, None),
    ],
)
def test_a_named_agent_is_contrast_unless_its_name_is_a_no(
    tmp_path: Path, agent: str | None, given: bool | None
) -> None:
    found = header(tmp_path, ContrastBolusAgent=agent)
    assert found.contrast_given is given
    assert found.contrast == (agent or "")


def test_contrast_may_be_a_code_or_an_amount(tmp_path: Path) -> None:
    coded = Sequence([code("109219", "Iohexol")])
    found = header(tmp_path, ContrastBolusAgentSequence=coded)
    assert (found.contrast, found.contrast_given) == ("Iohexol", True)
    assert header(tmp_path, ContrastBolusVolume="70").contrast_given is True
    assert header(tmp_path, ContrastBolusVolume="0").contrast_given is False


def test_anatomy_comes_from_codes_of_the_instance(tmp_path: Path) -> None:
    region = Sequence([code("818981001", "Abdomen")])
    found = header(tmp_path, AnatomicRegionSequence=region, BodyPartExamined=None)
    assert found.anatomy == (Code("818981001", "SCT", "Abdomen"),)
    assert found.body_part == ""


def test_frames_of_an_enhanced_instance_have_facts_of_their_own(tmp_path: Path) -> None:
    dataset = synthetic.enhanced([head_hu(), head_hu()], [5.0, -5.0])
    dataset.AcquisitionDateTime = "20240102101500"
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = Sequence([item(PixelSpacing=[2, 1], SliceThickness=5)])
    region = code("69536005", "Head")
    shared.FrameAnatomySequence = Sequence([item(AnatomicRegionSequence=region)])
    shared.CTReconstructionSequence = Sequence([item(ConvolutionKernel="Hr68h")])
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        frame.FrameContentSequence = Sequence(
            [item(StackID="A", InStackPositionNumber=number, FrameAcquisitionNumber=number)]
        )
        used = "YES" if number == 2 else "NO"
        frame.ContrastBolusUsageSequence = Sequence([item(ContrastBolusAgentAdministered=used)])
    found = read(save(dataset, tmp_path, "one.dcm"))
    assert [f.along_mm for f in found.frames] == [5, -5]
    assert [f.stack_number for f in found.frames] == [1, 2]
    assert [f.acquisition_number for f in found.frames] == [1, 2]
    assert [f.contrast_given for f in found.frames] == [False, True]
    assert {f.spacing_mm for f in found.frames} == {(2, 1)}
    assert {f.kernel for f in found.frames} == {"HR68H"}
    assert found.thickness_mm == 5
    assert found.anatomy == (Code("69536005", "SCT", "Head"),)
    assert found.acquisition_time == "20240102101500"


def test_what_a_converter_left_over_is_read_last(tmp_path: Path) -> None:
    dataset = synthetic.enhanced([head_hu()], [5.0])
    dataset.SharedFunctionalGroupsSequence[
        0
    ].UnassignedSharedConvertedAttributesSequence = Sequence(
        [item(ConvolutionKernel="H30s", SliceLocation=7)]
    )
    found = read(save(dataset, tmp_path, "one.dcm"))
    assert (found.kernel, found.location_mm) == ("H30S", 7)


def test_frames_of_a_plain_instance_have_no_place_of_their_own(tmp_path: Path) -> None:
    found = header(tmp_path, pixels=np.stack([head_hu()] * 3), NumberOfFrames=3, SliceLocation=4)
    assert [f.along_mm for f in found.frames] == [1, None, None]
    assert [f.location_mm for f in found.frames] == [4, None, None]
