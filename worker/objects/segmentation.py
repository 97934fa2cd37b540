"""BINARY segmentations: the evidence, or what a model marks, and viewers switch it on and off.

It has the rows and columns of its instances: viewers lay nothing else over them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from limen import __version__
from worker.objects import Kind
from worker.objects.evidence import Evidence
from worker.objects.identity import LONG_STRING, Identity
from worker.objects.marks import Marked
from worker.objects.stack import Stack
from worker.objects.wording import ORANGE, finding_code
from worker.objects.writing import common, device

__all__ = ["lesions", "method", "segmentation"]

CATEGORY: Final = Code("309825002", "SCT", "Spatial and Relational Concept")
TYPE: Final = Code("130401", "DCM", "Visual Explanation")
"""No lesion, no organ: what a model looked at."""

ABNORMAL: Final = Code("49755003", "SCT", "Morphologically Abnormal Structure")
"""CID 7150: what a segmentation marks."""

_FAMILY: Final = Code("123110", "DCM", "Artificial Intelligence")


def segmentation(identity: Identity, stack: Stack[Evidence], number: int) -> Dataset:
    """Return the superpixels that speak for the finding, in one segment.

    Parameters
    ----------
    number
        Of the object within its series, from 1.
    """
    finding = finding_code(stack.evidence[0].slice.finding)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=f"Evidence for {finding.meaning} (LIME)"[:LONG_STRING],
        segmented_property_category=CATEGORY,
        segmented_property_type=TYPE,
        algorithm_type="AUTOMATIC",
        algorithm_identification=method(stack.evidence[0]),
        tracking_uid=identity.tracking_uid("segment", finding.value),
        tracking_id=f"Evidence for {finding.meaning}"[:LONG_STRING],
        display_color=ORANGE,
    )
    dataset = Segmentation(
        source_images=list(stack.images),
        pixel_array=stack.filled(np.uint8, lambda weights: weights > 0),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        omit_empty_frames=True,
        content_label="EVIDENCE",
        content_description="Superpixels that speak for the finding; no outline of a lesion",
        **common(identity, Kind.SEG, str(number), number=number),
        **device(identity),
    )
    item = dataset.SegmentSequence[0]
    item.SegmentDescription = (
        "What the model looked at, by LIME. Not the outline of a lesion. Not for diagnostic use."
    )
    return dataset


def lesions(identity: Identity, stack: Stack[Marked], number: int) -> Dataset:
    """Return what a segmentation marks of a finding, in one segment.

    Parameters
    ----------
    number
        Of the object within its series, from 1.
    """
    marked = stack.evidence[0].finding
    finding = finding_code(marked)
    segment = SegmentDescription(
        segment_number=1,
        segment_label=finding.meaning[:LONG_STRING],
        segmented_property_category=ABNORMAL,
        segmented_property_type=finding,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=identity.model_name[:LONG_STRING],
            family=_FAMILY,
            version=(identity.model_version or __version__)[:LONG_STRING],
            source="Limen",
        ),
        tracking_uid=identity.tracking_uid("marked", finding.value),
        tracking_id=f"{finding.meaning}, marked"[:LONG_STRING],
        display_color=ORANGE,
    )
    dataset = Segmentation(
        source_images=list(stack.images),
        pixel_array=stack.filled(np.uint8, lambda weights: weights > 0),
        segmentation_type="BINARY",
        segment_descriptions=[segment],
        omit_empty_frames=True,
        content_label="MARKED",
        content_description="What the model marks; not verified",
        **common(identity, Kind.SEG, f"marked {number}", number=number),
        **device(identity),
    )
    volume = "" if marked.volume_ml is None else f" {marked.volume_ml:g} ml in the study."
    item = dataset.SegmentSequence[0]
    item.SegmentDescription = (
        f"What {identity.model} marks as {finding.meaning}.{volume} Not verified by anybody. "
        "Not for diagnostic use."
    )
    return dataset


def method(one: Evidence) -> AlgorithmIdentificationSequence:
    """Return how the explanation was made."""
    return AlgorithmIdentificationSequence(
        name=f"{one.explanation.method} (explanation of a classifier)"[:LONG_STRING],
        family=_FAMILY,
        version=__version__,
        source="Limen",
    )
