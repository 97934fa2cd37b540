"""Whether a frame is one that the model may look at, and why not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from worker.bundles.bundle import Bundle
from worker.dicom.headers import Frame, Header
from worker.study import anatomy, contrast
from worker.study.anatomy import Anatomy, Part
from worker.study.contrast import Contrast

__all__ = ["Fault", "fault", "wanted_parts"]

MAX_TILT_COSINE: Final = 0.8
"""Least |z| of the slice normal, about 37 degrees: gantry tilt passes, a reformat does not."""

_CT_IMAGES: Final = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
}
"""CT, Enhanced CT, Legacy Converted Enhanced CT Image Storage (PS3.4 B.5)."""

_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"

# Words of ImageType (PS3.3 C.8.2.1.1.1 and what scanners add), and what they mean.
_LOCALIZERS: Final = {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}
_REPORTS: Final = {"DOSE", "DOSE_INFO", "SCREEN SAVE", "SCREENSAVE", "REPORT"}
_MAPS: Final = {
    *("PERFUSION", "CBF", "CBV", "MTT", "TTP", "TMAX", "TTD", "SUBTRACTION", "MIP", "MINIP"),
    *("CSA MIP", "PROJECTION IMAGE", "VRT", "SSD", "VOLUME RENDER", "CSA 3D"),
}
_REFORMATS: Final = {
    *("REFORMATTED", "MPR", "AIP", "MEAN", "AVERAGE", "CSA MPR", "CSA RESAMPLED", "CPR", "CURVED"),
    "RESAMPLED",
}
_LOCALIZER_TEXT: Final = re.compile(
    r"\b(scout|localizer|localiser|topogramm?|surview|scanogram|pilot|lokalizer)\b", re.I
)
_MAP_TEXT: Final = re.compile(r"\b(cbf|cbv|mtt|ttp|tmax|ttd|rcbf|rcbv|mip|minip|vrt|ssd)\b", re.I)
_REPORT_TEXT: Final = re.compile(
    r"\b(dose (report|info\w*)|patient protocol|screen ?saves?)\b", re.I
)
_PLANE_TEXT: Final = re.compile(r"\b(cor(onal\w*)?|sag(it+al\w*)?)\b", re.I)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a frame is left out.

    Attributes
    ----------
    reason
        In words.
    harmless
        True for what is no slice of the body at all (a localizer, a report, another kind of
        object). Any other frame that is left out of a series may have shown something.
    """

    reason: str
    harmless: bool = False


def wanted_parts(bundle: Bundle) -> frozenset[Part]:
    """Return the parts of the body that a bundle accepts; empty where it accepts all."""
    return frozenset(p for text in bundle.accepts.body_part for p in anatomy.parts_of_text(text))


def fault(header: Header, frame: Frame, bundle: Bundle, wanted: frozenset[Part]) -> Fault | None:
    """Return why a frame is not to be looked at; None where it is."""
    return next(_faults(header, frame, bundle, wanted), None)


def _faults(
    header: Header, frame: Frame, bundle: Bundle, wanted: frozenset[Part]
) -> Iterator[Fault]:
    yield from _object_faults(header, bundle)
    yield from _kind_faults(header, frame)
    if not _is_axial(header, frame):
        yield Fault("not axial")
    if not bundle.accepts.contrast and contrast.of(header, frame) is Contrast.GIVEN:
        yield Fault("contrast enhanced")
    judged = anatomy.judge(header, frame, wanted)
    if judged.anatomy is Anatomy.OTHER and not _is_named(header, bundle):
        yield Fault(judged.reason)


def _object_faults(header: Header, bundle: Bundle) -> Iterator[Fault]:
    if header.modality not in bundle.accepts.modality:
        yield Fault(f"modality {header.modality or 'unknown'}", harmless=True)
    if header.sop_class_uid.startswith(_SECONDARY_CAPTURE):
        yield Fault("a secondary capture", harmless=True)
    if header.modality == "CT" and header.sop_class_uid not in _CT_IMAGES:
        yield Fault("not a CT image object", harmless=True)
    if not header.has_pixels:
        yield Fault("holds no image")
    if header.samples != 1 or header.photometric == "PALETTE COLOR":
        yield Fault("not a grey image", harmless=True)


def _kind_faults(header: Header, frame: Frame) -> Iterator[Fault]:
    """Yield why a frame is not an original, primary slice."""
    words, text = set(frame.image_type), header.series_description
    if words & _LOCALIZERS or _LOCALIZER_TEXT.search(text):
        yield Fault("a localizer", harmless=True)
    if words & _REPORTS or _REPORT_TEXT.search(text):
        yield Fault("a dose or screen report", harmless=True)
    if words & _MAPS or _MAP_TEXT.search(text):
        yield Fault("a derived map or projection")
    if words & _REFORMATS:
        yield Fault("a reformat")
    if "SECONDARY" in frame.image_type[:2]:
        yield Fault("a secondary image")
    # Compression, an anonymiser or a reconstruction from raw data turn ORIGINAL into DERIVED
    # (PS3.3 C.7.6.1.1.2); what still calls itself a primary axial slice is one.
    if frame.image_type[:1] == ("DERIVED",) and not {"AXIAL", "VOLUME"} & words:
        yield Fault("a derived image")


def _is_axial(header: Header, frame: Frame) -> bool:
    normal = frame.normal
    if normal is None:  # ImageType has had its say; the description is what is left
        return not _PLANE_TEXT.search(header.series_description)
    return abs(normal[2]) >= MAX_TILT_COSINE


def _is_named(header: Header, bundle: Bundle) -> bool:
    """Return True where the bundle names this very body part."""
    return bool(header.body_part) and header.body_part in bundle.accepts.body_part
