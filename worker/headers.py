"""What a DICOM file says of itself, read without its pixels.

Runs in the children of ``worker.pixels.Decoder``: a hostile data set may end
the process it is parsed in.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian

from limen.errors import Unreadable

__all__ = ["Frame", "Header", "read", "read_dataset"]

Vector = tuple[float, float, float]

MAX_TEXT = 512
"""Characters kept of one text; PS3.5 6.2 allows 64 for each part of a name."""

BYTES_PER_FRAME: Final = 8
"""No encoding spends less on a frame: the header of its fragment (PS3.5 Annex A.4)."""

_UID: Final = re.compile(r"^[0-9.]{1,64}$")
_TEXTS: Final = {
    "accession": "AccessionNumber",
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_sex": "PatientSex",
    "patient_birth_date": "PatientBirthDate",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
    "study_description": "StudyDescription",
    "referring_institution": "InstitutionName",
    "series_description": "SeriesDescription",
}
_GROUPS: Final = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_KEYWORDS: Final = (
    *_TEXTS.values(),
    *_GROUPS,
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "Modality",
    "BodyPartExamined",
    "ConvolutionKernel",
    "ImageType",
    "InstanceNumber",
    "SeriesNumber",
    "LossyImageCompression",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "SliceThickness",
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of an instance (PS3.3 C.7.6.2, C.7.6.16).

    Attributes
    ----------
    number
        From 1.
    orientation
        Direction cosines of the row, then of the column; None where unknown.
    position_mm
        Centre of the first pixel in the patient; None where unknown.
    image_type
        Of the frame in an enhanced instance, of the instance otherwise; upper case.
    """

    number: int
    orientation: tuple[Vector, Vector] | None
    position_mm: Vector | None
    image_type: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """One instance. Texts are Unicode without control characters, empty where absent."""

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
    lossy: bool
    instance_number: int | None
    rows: int
    columns: int
    samples: int
    photometric: str
    has_pixels: bool
    spacing_mm: tuple[float, float] | None
    thickness_mm: float | None
    frames: tuple[Frame, ...]


def read(path: Path) -> Header:
    """Read one header.

    Raises
    ------
    Unreadable
        Not a DICOM file, a broken or too deep data set, no valid UIDs, or the
        deflated syntax (a few bytes of it can fill the memory).
    """
    dataset, has_pixels = read_dataset(path, _KEYWORDS)
    try:
        return _header(path, dataset, has_pixels)
    except RecursionError as exc:
        raise Unreadable("its sequences are nested too deeply") from exc
    except Unreadable:
        raise
    except Exception as exc:
        raise Unreadable(f"its data set cannot be understood ({type(exc).__name__})") from exc


def read_dataset(
    path: Path, keywords: Iterable[str], *, with_pixels: bool = False
) -> tuple[Dataset, bool]:
    """Return the named elements of a file, and whether pixel data follow them.

    Raises
    ------
    Unreadable
        As ``read``.
    """
    tags: list[Any] = [tag_for_keyword(keyword) for keyword in keywords]
    try:
        meta = read_file_meta_info(str(path))
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise Unreadable("the deflated transfer syntax is not accepted")
        with path.open("rb") as file:
            dataset = dcmread(file, stop_before_pixels=not with_pixels, specific_tags=tags)
            return dataset, with_pixels or len(file.read(BYTES_PER_FRAME)) == BYTES_PER_FRAME
    except Unreadable:
        raise
    except InvalidDicomError as exc:
        raise Unreadable("it is not a DICOM file (PS3.10 7.1: no DICM prefix)") from exc
    except RecursionError as exc:
        raise Unreadable("its sequences are nested too deeply") from exc
    except MemoryError as exc:
        raise Unreadable("reading it needs more memory than is allowed") from exc
    except OSError as exc:
        raise Unreadable(f"it cannot be opened ({exc.strerror or type(exc).__name__})") from exc
    except Exception as exc:
        raise Unreadable(f"its data set is broken ({type(exc).__name__})") from exc


def _header(path: Path, dataset: Dataset, has_pixels: bool) -> Header:
    image_type = _words(dataset, "ImageType")
    rows, columns = _integer(dataset, "Rows") or 0, _integer(dataset, "Columns") or 0
    return Header(
        path=path,
        sop_uid=_uid(dataset, "SOPInstanceUID"),
        sop_class_uid=_uid(dataset, "SOPClassUID"),
        series_uid=_uid(dataset, "SeriesInstanceUID"),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        transfer_syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
        **{name: text(dataset, keyword) for name, keyword in _TEXTS.items()},
        series_number=_integer(dataset, "SeriesNumber"),
        modality=text(dataset, "Modality").upper(),
        body_part=text(dataset, "BodyPartExamined").upper(),
        kernel=_kernel(dataset),
        lossy=text(dataset, "LossyImageCompression") == "01",
        instance_number=_integer(dataset, "InstanceNumber"),
        rows=rows,
        columns=columns,
        samples=_integer(dataset, "SamplesPerPixel") or 1,
        photometric=text(dataset, "PhotometricInterpretation").upper(),
        has_pixels=has_pixels and rows > 0 and columns > 0,
        spacing_mm=_spacing(dataset),
        thickness_mm=_thickness(dataset),
        frames=_frames(dataset, image_type, path.stat().st_size),
    )


def text(dataset: Dataset, keyword: str) -> str:
    """Return an element as Unicode; what cannot be decoded becomes U+FFFD, never an error."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom converts on access and may raise anything on bad bytes
        return ""
    if value is None:
        return ""
    parts = value if isinstance(value, MultiValue | list | tuple) else [value]
    joined = "\\".join(str(part) for part in parts)[:MAX_TEXT]
    return "".join(c for c in joined if unicodedata.category(c) not in {"Cc", "Cs"}).strip()


def _words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    return tuple(word.strip().upper() for word in text(dataset, keyword).split("\\") if word)


def _uid(dataset: Dataset, keyword: str) -> str:
    value = text(dataset, keyword)
    if not _UID.fullmatch(value):
        raise Unreadable(f"its {keyword} is missing or not a UID")
    return value


def _integer(dataset: Dataset, keyword: str) -> int | None:
    try:
        return int(str(dataset.get(keyword)))
    except Exception:  # absent, several values, not a number, not convertible
        return None


def _numbers(dataset: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers, or None."""
    if dataset is None:
        return None
    try:
        value = dataset.get(keyword)
        values = value if isinstance(value, MultiValue | list) else [value]
        numbers = tuple(float(v) for v in values)
    except Exception:
        return None
    if len(numbers) != count or not all(math.isfinite(n) for n in numbers):
        return None
    return numbers


def group(dataset: Dataset, frame: int, macro: str) -> Dataset | None:
    """Return a functional group macro of a frame (from 1): its own, else the shared one.

    PS3.3 C.7.6.16.1.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = [per_frame[frame - 1]] if frame <= len(per_frame) else []
    for item in (*own, *shared[:1]):
        sequence = item.get(macro)
        if sequence:
            found: Dataset = sequence[0]
            return found
    return None


def _frames(dataset: Dataset, image_type: tuple[str, ...], size_bytes: int) -> tuple[Frame, ...]:
    count = _integer(dataset, "NumberOfFrames") or 1
    if count < 1 or count * BYTES_PER_FRAME > max(size_bytes, BYTES_PER_FRAME):
        raise Unreadable("its NumberOfFrames does not fit the length of the file")
    if not any(dataset.get(keyword) for keyword in _GROUPS):
        frame = _frame(1, dataset, dataset, image_type)
        # Frames of a plain multi-frame instance have no place of their own.
        rest = (Frame(n, frame.orientation, None, image_type) for n in range(2, count + 1))
        return (frame, *rest)
    return tuple(_enhanced_frame(dataset, n, image_type) for n in range(1, count + 1))


def _frame(
    number: int, plane: Dataset | None, place: Dataset | None, image_type: tuple[str, ...]
) -> Frame:
    cosines = _numbers(plane, "ImageOrientationPatient", 6)
    position = _numbers(place, "ImagePositionPatient", 3)
    return Frame(
        number,
        None if cosines is None else (cosines[:3], cosines[3:]),  # type: ignore[arg-type]
        position,  # type: ignore[arg-type]
        image_type,
    )


def _enhanced_frame(dataset: Dataset, number: int, image_type: tuple[str, ...]) -> Frame:
    plane = group(dataset, number, "PlaneOrientationSequence")
    place = group(dataset, number, "PlanePositionSequence")
    kind = group(dataset, number, "CTImageFrameTypeSequence") or group(
        dataset, number, "MRImageFrameTypeSequence"
    )
    own_type = _words(kind, "FrameType") if kind is not None else ()
    return _frame(number, plane, place, own_type or image_type)


def _kernel(dataset: Dataset) -> str:
    reconstruction = group(dataset, 1, "CTReconstructionSequence")
    own = text(dataset, "ConvolutionKernel")
    return (own or (text(reconstruction, "ConvolutionKernel") if reconstruction else "")).upper()


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    measures = group(dataset, 1, "PixelMeasuresSequence")
    own = _numbers(dataset, "PixelSpacing", 2)
    return own or _numbers(measures, "PixelSpacing", 2)  # type: ignore[return-value]


def _thickness(dataset: Dataset) -> float | None:
    measures = group(dataset, 1, "PixelMeasuresSequence")
    found = _numbers(dataset, "SliceThickness", 1) or _numbers(measures, "SliceThickness", 1)
    return found[0] if found else None
