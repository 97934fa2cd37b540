"""Ten studies as the equipment of several vendors writes them, heads all but one."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, radians, sin
from typing import Any

import numpy as np
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset

from tests.support import heads
from tests.support.heads import HEIGHTS_MM, STEP_MM

__all__ = ["HABITS"]

Study = list[FileDataset]
TILT = radians(15)
DATED = {"StudyDate": "20260102", "StudyTime": "030405", "StudyID": "1"}


def _tilted_in_german() -> Study:
    """A gantry tilted by 15 degrees, Latin-1."""
    slices = heads.head(
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller-Größ^Jürgen^^Dr.",
        ReferringPhysicianName="Säbel^Ärztin",
        StudyDescription="Schädel nativ",
        Manufacturer="SIEMENS",
        AccessionNumber="A0001",
        GantryDetectorTilt=15,
        ImageOrientationPatient=[1, 0, 0, 0, cos(TILT), -sin(TILT)],
        **DATED,
    )
    half_mm = heads.FIELD_MM / 2
    for z, one in zip(HEIGHTS_MM, slices, strict=True):
        one.ImagePositionPatient = [-half_mm, -half_mm * cos(TILT), z + half_mm * sin(TILT)]
    return slices


def _bare() -> Study:
    """No birth date, no accession, no description, an age."""
    return heads.head(
        PatientBirthDate=None,
        SeriesDescription="HEAD STD",
        PatientAge="061Y",
        Manufacturer="GE MEDICAL SYSTEMS",
        ReferringPhysicianName="",
        PatientSex="",
        **DATED,
    )


def _in_japanese() -> Study:
    return heads.head(
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう",
        StudyDescription="頭部単純",
        Manufacturer="TOSHIBA",
        PatientSex="M",
        AccessionNumber="J-77",
        **DATED,
    )


def _in_korean() -> Study:
    return heads.head(
        SpecificCharacterSet=["", "ISO 2022 IR 149"],
        PatientName="Hong^Gildong=洪^吉洞=홍^길동",
        Manufacturer="Samsung Electronics",
        IssuerOfPatientID="HOSPITAL",
        PatientSex="F",
        **DATED,
    )


def _enhanced() -> Study:
    return [
        heads.enhanced_head(
            Manufacturer="Philips",
            PatientName="Enhanced^Multi",
            SpecificCharacterSet="ISO_IR 192",
            PatientBirthDate="19610203",
            AccessionNumber="E1",
            **DATED,
        )
    ]


def _thin() -> Study:
    """Slices of 1.25 mm, stored unsigned with an intercept, as seen from above."""
    heights = np.arange(-50.0, 70.1, 1.25)
    slices = heads.head(
        heights_mm=heights, SliceThickness=1.25, SeriesDescription="HEAD 1.25", **DATED
    )
    for one in slices:
        stored = one.pixel_array.astype(np.int32) + 1024
        one.PixelData = np.ascontiguousarray(stored[:, ::-1]).astype(np.uint16).tobytes()
        one.PixelRepresentation, one.RescaleIntercept = 0, -1024
        x, y, z = one.ImagePositionPatient
        one.ImageOrientationPatient, one.ImagePositionPatient = [-1, 0, 0, 0, 1, 0], [-x, y, z]
    return slices


def _negative() -> Study:
    return heads.head(
        bleeds_mm=None,
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Wang^XiaoDong=王^小东",
        **DATED,
    )


def _partial() -> Study:
    """Three slices of the middle never came."""
    slices = heads.head(bleeds_mm=None, PatientName="Partial^Study", **DATED)
    return slices[:5] + slices[8:]


def _not_analysed() -> Study:
    return [
        heads.slice_of(heads.chest_hu(z), z, n, Modality="MR", BodyPartExamined="CHEST", **DATED)
        for n, z in enumerate((0.0, STEP_MM), start=1)
    ]


def _old() -> Study:
    """Every second row, columns that no byte divides, dates of ACR-NEMA, no part of the body."""
    changes: dict[str, Any] = {
        "PatientName": "Old^Dates",
        "BodyPartExamined": None,
        "SeriesDescription": "CRANE",
    }
    mm = heads.FIELD_MM / heads.SIDE
    slices = [
        heads.slice_of(
            np.ascontiguousarray(heads.head_hu(z, bleeds=-20 <= z <= 20)[::2, 3:-2]),
            z,
            n,
            PixelSpacing=[2 * mm, mm],
            **changes,
        )
        for n, z in enumerate(HEIGHTS_MM, start=1)
    ]
    for one in slices:
        for keyword, vr, value in (("StudyDate", "DA", "2026.01.02"), ("StudyTime", "TM", "03:04")):
            one[keyword] = DataElement(keyword, vr, value, validation_mode=IGNORE)
    return slices


HABITS: dict[str, Callable[[], Study]] = {
    "tilted gantry, Latin-1": _tilted_in_german,
    "absent attributes": _bare,
    "Japanese": _in_japanese,
    "Korean": _in_korean,
    "enhanced multi-frame": _enhanced,
    "thin slices, mirrored": _thin,
    "negative, UTF-8": _negative,
    "partial": _partial,
    "not analysed": _not_analysed,
    "old dates, rows twice as far": _old,
}
