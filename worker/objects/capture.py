"""Secondary captures: pictures that any viewer shows, with everything burned in."""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from worker.objects import Kind
from worker.objects.evidence import Evidence
from worker.objects.identity import Identity
from worker.objects.picture import page, panels
from worker.objects.source import Source
from worker.objects.writing import common, device

__all__ = ["captures", "text_page"]

MOST: Final = 3
"""Slices that are shown: the most probable ones that are explained."""


def captures(identity: Identity, source: Source, evidence: list[Evidence]) -> list[Dataset]:
    """Return the top slices, each beside its evidence."""
    return [
        _of_slice(identity, source, one, number)
        for number, one in enumerate(evidence[:MOST], start=1)
    ]


def text_page(identity: Identity, source: Source) -> Dataset:
    """Return what the report says, for those who cannot take a report."""
    return _capture(identity, source, page(identity), "page", 1)


def _of_slice(identity: Identity, source: Source, one: Evidence, number: int) -> Dataset:
    image = one.slice.image
    which = f"{image.sop_uid}.{image.frame}"
    dataset = _capture(identity, source, panels(identity, one), which, number)
    reference = Dataset()
    reference.ReferencedSOPClassUID = one.slice.header.sop_class_uid
    reference.ReferencedSOPInstanceUID = one.slice.header.sop_uid
    if one.slice.frame_numbers:
        reference.ReferencedFrameNumber = one.slice.frame_numbers
    purpose = Dataset()
    code = codes.DCM.SourceImageForImageProcessingOperation
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    reference.PurposeOfReferenceCodeSequence = [purpose]
    dataset.SourceImageSequence = [reference]
    return dataset


def _capture(
    identity: Identity, source: Source, pixels: NDArray[np.uint8], which: str, number: int
) -> Dataset:
    dataset = SCImage(
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=source.carried.study_uid,
        patient_orientation=("L", "P"),
        **common(identity, Kind.SC, which, number=number),
        **device(identity),
    )
    dataset.PatientOrientation = []  # two pictures and text: no direction of the whole
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageComments = "Not for diagnostic use"
    return dataset
