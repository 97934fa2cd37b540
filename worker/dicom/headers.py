"""What a DICOM file says of itself, read without its pixels.

Runs in the children of ``worker.dicom.decoder.Decoder``: a hostile data set may end
the process it is parsed in.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset

from limen.errors import Unreadable
from limen.uids import is_uid
from worker.dicom import datasets, elements, facts, groups, layout
from worker.dicom.facts import Code
from worker.dicom.groups import FrameGroups

__all__ = ["Code", "Frame", "Header", "read"]

Vector = tuple[float, float, float]

MAX_SKEW: Final = 0.1
"""How far the direction cosines may be from unit length and from a right angle."""

_OLD_DATE: Final = re.compile(r"^(\d{4})\.(\d\d)\.(\d\d)$")
_OLD_TIME: Final = re.compile(r"^(\d\d):(\d\d)(?::(\d\d(?:\.\d+)?))?$")
"""As ACR-NEMA wrote them and PS3.5 6.2 asks readers to understand them."""

_TEXTS: Final = {
    "accession": "AccessionNumber",
    "patient_id": "PatientID",
    "patient_id_issuer": "IssuerOfPatientID",
    "patient_name": "PatientName",
    "patient_sex": "PatientSex",
    "patient_age": "PatientAge",
    "patient_position": "PatientPosition",
    "study_description": "StudyDescription",
    "referring_institution": "InstitutionName",
    "manufacturer": "Manufacturer",
    "series_description": "SeriesDescription",
    "protocol_name": "ProtocolName",
    "frame_of_reference_uid": "FrameOfReferenceUID",
    "acquisition_uid": "AcquisitionUID",
}
_MOMENTS: Final = {
    "patient_birth_date": "PatientBirthDate",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "content_time": "ContentTime",
}
_UIDS: Final = {
    "sop_uid": "SOPInstanceUID",
    "sop_class_uid": "SOPClassUID",
    "series_uid": "SeriesInstanceUID",
    "study_uid": "StudyInstanceUID",
}
_GEOMETRY: Final = {
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "PixelSpacing": 2,
    "NominalScannedPixelSpacing": 2,
    "ImagerPixelSpacing": 2,
    "SliceThickness": 1,
    "SliceLocation": 1,
    "SpacingBetweenSlices": 1,
    "GantryDetectorTilt": 1,
    "InstanceNumber": 1,
    "AcquisitionNumber": 1,
}
"""Keyword -> how many numbers it holds."""

_KEYWORDS: Final = (
    *_TEXTS.values(),
    *_MOMENTS.values(),
    *_UIDS.values(),
    *_GEOMETRY,
    *groups.KEYWORDS,
    *facts.KEYWORDS,
    *layout.KEYWORDS,
    "SpecificCharacterSet",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "Modality",
    "BodyPartExamined",
    "ConvolutionKernel",
    "ImageType",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "SeriesNumber",
    "LossyImageCompression",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of an instance (PS3.3 C.7.6.2, C.7.6.16).

    What the frame does not say itself is what its instance says; None or empty
    where neither does, or where what they say cannot be used.

    Attributes
    ----------
    number
        From 1.
    orientation
        Direction cosines of the row, then of the column, as given.
    position_mm
        Centre of the first pixel in the patient.
    image_type
        Of the frame in an enhanced instance, of the instance otherwise; upper case.
    spacing_mm
        Distance of rows, then of columns: PixelSpacing, else NominalScannedPixelSpacing,
        else ImagerPixelSpacing.
    spacing_from
        The keyword that said so.
    thickness_mm, location_mm
        SliceThickness and SliceLocation.
    kernel
        ConvolutionKernel, upper case; several values have a backslash between them.
    acquisition_number, acquisition_time
        The time is YYYYMMDDHHMMSS.FFFFFF where the date is known, else HHMMSS.FFFFFF, as given.
    stack, stack_number
        StackID and InStackPositionNumber of an enhanced instance.
    temporal_index
        TemporalPositionIndex of an enhanced instance.
    contrast_given
        Whether it was taken with contrast; None where nothing is said.
    anatomy
        Codes of the part of the body.
    """

    number: int
    orientation: tuple[Vector, Vector] | None
    position_mm: Vector | None
    image_type: tuple[str, ...]
    spacing_mm: tuple[float, float] | None = None
    spacing_from: str = ""
    thickness_mm: float | None = None
    location_mm: float | None = None
    kernel: str = ""
    acquisition_number: int | None = None
    acquisition_time: str = ""
    stack: str = ""
    stack_number: int | None = None
    temporal_index: int | None = None
    contrast_given: bool | None = None
    anatomy: tuple[Code, ...] = ()

    @property
    def normal(self) -> Vector | None:
        """Unit vector at right angles to the slice, turned towards the head (+z)."""
        if self.orientation is None:
            return None
        (a, b, c), (d, e, f) = self.orientation
        x, y, z = b * f - c * e, c * d - a * f, a * e - b * d
        length = math.copysign(math.hypot(x, y, z), z)
        return x / length, y / length, z / length

    @property
    def along_mm(self) -> float | None:
        """Place of the slice along ``normal``, not rounded; None where it is unknown."""
        normal = self.normal
        if normal is None or self.position_mm is None:
            return None
        return sum(n * p for n, p in zip(normal, self.position_mm, strict=True))


@dataclass(frozen=True, slots=True)
class Header:
    """One instance. Texts are Unicode without control characters, empty where absent.

    Dates and times are as PS3.5 6.2 writes them (YYYYMMDD, HHMMSS.FFFFFF) where they are
    dates and times, and as given otherwise.

    ``kernel``, ``spacing_mm`` and ``thickness_mm`` are those of the first frame.

    Attributes
    ----------
    contrast
        The contrast agents as named, also where the name says that none was given.
    contrast_given
        Of the first frame: whether contrast was given; None where nothing is said.
    spacing_between_mm
        SpacingBetweenSlices as given (it may be negative).
    tilt_degrees
        GantryDetectorTilt.
    patient_age
        PatientAge as given, "042Y" (PS3.5 6.2, AS).
    other_patient_ids
        OtherPatientIDs and those of OtherPatientIDsSequence.
    faults
        Why elements of the geometry that are there cannot be used; no values of them.
    """

    path: Path
    sop_uid: str
    sop_class_uid: str
    series_uid: str
    study_uid: str
    transfer_syntax: str
    accession: str
    patient_id: str
    patient_name: str
    patient_sex: str
    patient_birth_date: str
    study_date: str
    study_time: str
    study_description: str
    referring_institution: str
    series_description: str
    series_number: int | None
    modality: str
    body_part: str
    kernel: str
    instance_number: int | None
    rows: int
    columns: int
    samples: int
    photometric: str
    has_pixels: bool
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    frames: tuple[Frame, ...]
    patient_id_issuer: str = ""
    other_patient_ids: tuple[str, ...] = ()
    patient_age: str = ""
    patient_position: str = ""
    manufacturer: str = ""
    protocol_name: str = ""
    frame_of_reference_uid: str = ""
    acquisition_uid: str = ""
    acquisition_number: int | None = None
    acquisition_time: str = ""
    content_time: str = ""
    location_mm: float | None = None
    spacing_between_mm: float | None = None
    tilt_degrees: float | None = None
    contrast: str = ""
    contrast_given: bool | None = None
    anatomy: tuple[Code, ...] = ()
    faults: tuple[str, ...] = ()


def read(path: Path) -> Header:
    """Read one header.

    Raises
    ------
    Unreadable
        Not a DICOM file, a broken or too deep data set, no valid UIDs, or the
        deflated syntax (a few bytes of it can fill the memory).
    """
    dataset, pixels = datasets.load(path, _KEYWORDS)
    with datasets.reasons("its data set cannot be understood"):
        return _header(path, dataset, has_pixels=pixels is not None)


def _header(path: Path, dataset: Dataset, has_pixels: bool) -> Header:
    uids = {name: _uid(dataset, keyword) for name, keyword in _UIDS.items()}
    frames = _frames(dataset, path.stat().st_size)
    first, own = frames[0], FrameGroups(dataset, 1)
    return Header(
        path=path,
        **uids,
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        **{name: elements.text(dataset, keyword) for name, keyword in _TEXTS.items()},
        **{name: _plain_moment(dataset, keyword) for name, keyword in _MOMENTS.items()},
        other_patient_ids=_other_ids(dataset),
        series_number=elements.integer(dataset, "SeriesNumber"),
        modality=elements.text(dataset, "Modality").upper(),
        body_part=elements.text(dataset, "BodyPartExamined").upper(),
        kernel=first.kernel,
        instance_number=elements.integer(dataset, "InstanceNumber"),
        rows=elements.integer(dataset, "Rows") or 0,
        columns=elements.integer(dataset, "Columns") or 0,
        samples=layout.samples(dataset) or 1,
        photometric=layout.photometric(dataset),
        has_pixels=has_pixels,
        spacing_mm=first.spacing_mm,
        thickness_mm=first.thickness_mm,
        acquisition_number=first.acquisition_number,
        acquisition_time=first.acquisition_time,
        location_mm=first.location_mm,
        spacing_between_mm=own.number("SpacingBetweenSlices", "PixelMeasuresSequence"),
        tilt_degrees=own.number("GantryDetectorTilt", "CTGeometrySequence"),
        contrast="; ".join(facts.contrast(own)),
        contrast_given=first.contrast_given,
        anatomy=first.anatomy,
        faults=_faults(dataset),
        frames=frames,
    )


def _uid(dataset: Dataset, keyword: str) -> str:
    value = elements.text(dataset, keyword)
    if not value:
        raise Unreadable(f"its {keyword} is missing")
    if not is_uid(value):
        raise Unreadable(f"its {keyword} is not a UID")
    return value


def _plain_moment(dataset: Dataset, keyword: str) -> str:
    """Return a date or a time as DICOM writes it today; one that is none stays as given."""
    given = elements.text(dataset, keyword)
    old = _OLD_DATE.match(given) or _OLD_TIME.match(given)
    return "".join(part for part in old.groups() if part) if old else given


def _other_ids(dataset: Dataset) -> tuple[str, ...]:
    plain = elements.text(dataset, "OtherPatientIDs").split("\\")
    items = elements.items(dataset, "OtherPatientIDsSequence")
    found = (*plain, *(elements.text(item, "PatientID") for item in items))
    return tuple(dict.fromkeys(value.strip() for value in found if value.strip()))


def _faults(dataset: Dataset) -> tuple[str, ...]:
    found = [elements.fault(dataset, keyword, count) for keyword, count in _GEOMETRY.items()]
    if not groups.are_there(dataset):
        cosines = elements.numbers(dataset, "ImageOrientationPatient", 6)
        if cosines is not None and _orientation(cosines) is None:
            found.append("its ImageOrientationPatient is no pair of unit vectors at right angles")
    return tuple(fault for fault in found if fault)


def _frames(dataset: Dataset, size_bytes: int) -> tuple[Frame, ...]:
    """Return the frames; those of a plain multi-frame instance have no place of their own."""
    count = layout.frame_count(dataset, size_bytes)
    if groups.are_there(dataset):
        return tuple(_frame(dataset, number) for number in range(1, count + 1))
    first = _frame(dataset, 1)
    rest = (
        replace(first, number=n, position_mm=None, location_mm=None) for n in range(2, count + 1)
    )
    return (first, *rest)


def _frame(dataset: Dataset, number: int) -> Frame:
    own = FrameGroups(dataset, number)
    position = own.numbers("ImagePositionPatient", 3, "PlanePositionSequence")
    content = own.macro("FrameContentSequence")
    spacing_mm, spacing_from = facts.spacing(own)
    return Frame(
        number=number,
        orientation=_orientation(
            own.numbers("ImageOrientationPatient", 6, "PlaneOrientationSequence")
        ),
        position_mm=None if position is None else (position[0], position[1], position[2]),
        image_type=_image_type(own),
        spacing_mm=spacing_mm,
        spacing_from=spacing_from,
        thickness_mm=own.number("SliceThickness", "PixelMeasuresSequence"),
        location_mm=own.number("SliceLocation"),
        kernel=own.text("ConvolutionKernel", "CTReconstructionSequence").upper(),
        acquisition_number=_acquisition_number(dataset, content),
        acquisition_time=_acquisition_time(dataset, content),
        stack=elements.text(content, "StackID"),
        stack_number=elements.integer(content, "InStackPositionNumber"),
        temporal_index=elements.integer(content, "TemporalPositionIndex"),
        contrast_given=facts.contrast_given(own),
        anatomy=facts.anatomy(own),
    )


def _orientation(cosines: tuple[float, ...] | None) -> tuple[Vector, Vector] | None:
    """Return two unit vectors at right angles, nearly; None for anything else."""
    if cosines is None:
        return None
    a, b, c, d, e, f = cosines
    lengths = math.hypot(a, b, c), math.hypot(d, e, f)
    skew = max(*(abs(length - 1) for length in lengths), abs(a * d + b * e + c * f))
    return ((a, b, c), (d, e, f)) if skew <= MAX_SKEW else None


def _image_type(own: FrameGroups) -> tuple[str, ...]:
    for name in ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence"):
        words = elements.words(own.macro(name), "FrameType")
        if words:
            return words
    return elements.words(own.dataset, "ImageType")


def _acquisition_number(dataset: Dataset, content: Dataset | None) -> int | None:
    own = elements.integer(content, "FrameAcquisitionNumber")
    return own if own is not None else elements.integer(dataset, "AcquisitionNumber")


def _acquisition_time(dataset: Dataset, content: Dataset | None) -> str:
    date, time = (_plain_moment(dataset, f"Acquisition{part}") for part in ("Date", "Time"))
    own = elements.text(content, "FrameAcquisitionDateTime")
    return own or elements.text(dataset, "AcquisitionDateTime") or (date + time if time else "")
