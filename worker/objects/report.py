"""The report: Comprehensive 3D SR, TID 1500 (PS3.16), preliminary and unverified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    CoordinatesForMeasurement,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TextContentItem,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from limen import __version__
from limen.implementation import MANUFACTURER
from limen.result import Finding, Task
from worker.objects import Kind, Reference
from worker.objects.evidence import Box, Evidence, boxes
from worker.objects.identity import Identity
from worker.objects.source import Slice, Source
from worker.objects.source import named as named_object
from worker.objects.wording import (
    finding_code,
    presence,
    presence_of_slice,
    sentences,
    summary,
    threshold,
)
from worker.objects.writing import common

__all__ = ["Regions", "report"]

PROCEDURE: Final = Code("25045-6", "LN", "CT unspecified body region")
"""Of CID 100, whatever part of the body the study shows."""

VISUAL_EXPLANATION: Final = Code("130401", "DCM", "Visual Explanation")

_NO_UNITS: Final = Code("1", "UCUM", "no units")
_ML: Final = Code("ml", "UCUM", "Milliliter")
_MM2: Final = Code("mm2", "UCUM", "Square Millimeter")
TEXT_REPORT: Final = Code("18748-4", "LN", "Diagnostic imaging report")
"""Title of a report that names no place in a slice (CID 7021 may be extended): under the one of
measurements OHIF 3.12 looks for a place to show, and breaks without one."""

EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")


@dataclass(frozen=True, slots=True)
class Regions:
    """What an explanation adds to the report.

    Attributes
    ----------
    maps
        SOP Instance UID and frame of a slice -> the Parametric Map that covers it.
    """

    evidence: tuple[Evidence, ...]
    maps: Mapping[tuple[str, int], Reference]


def report(
    identity: Identity,
    source: Source,
    replaces: Sequence[Reference] = (),
    regions: Regions | None = None,
) -> Dataset:
    """Return the report: the study, each positive slice, and each region of the evidence.

    What is known of the study stands under Qualitative Evaluations (TID 1500), whatever the
    outcome. Each positive slice has a group of TID 1501 with its probability and where it is,
    or, where it has evidence, one of TID 1410 for each region. Where there is no such slice, or
    what is measured is of the study, one group of TID 1501 says the same of the study.
    """
    slices = source.positive(identity.result)
    groups: list[Any] = []
    maps: list[Reference] = []
    of_slice: dict[tuple[str, int], list[Any]] = {}
    shown: list[Slice] = []
    for one in regions.evidence if regions else ():
        place = (one.slice.header.sop_uid, one.slice.image.frame)
        saliency = regions.maps.get(place) if regions else None
        of_slice[place] = _of_regions(identity, one, saliency)
        if of_slice[place]:
            shown.append(one.slice)
            maps += [saliency] if saliency else []
    for one_slice in slices:
        place = (one_slice.header.sop_uid, one_slice.image.frame)
        groups += of_slice.pop(place, []) or [_of_slice(identity, one_slice)]
    groups += [group for rest in of_slice.values() for group in rest]
    if groups:
        groups += [
            _group_of_study(identity, one)
            for one in identity.result.all_findings()
            if one.volume_ml is not None or identity.result.task is Task.VOLUME
        ]
    return _document(identity, source, groups, [*slices, *shown], maps, replaces)


def _document(
    identity: Identity,
    source: Source,
    groups: Sequence[Any],
    slices: Sequence[Slice],
    maps: Sequence[Reference],
    replaces: Sequence[Reference],
) -> Dataset:
    named = {one.header.sop_uid: one.header for one in slices}
    if not named:  # a document names what it is about, also where nothing is to be shown
        named = {h.sop_uid: h for h in list(source.headers.values())[:1]}
    evidence = [source.data_set(header) for header in named.values()]
    study_uid = source.carried.study_uid
    evidence += [named_object(one, study_uid) for one in dict.fromkeys(maps)]
    observer = DeviceObserverIdentifyingAttributes(
        uid=identity.device_uid,
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=identity.model,
        serial_number=identity.model_sha256 or None,
    )
    content = MeasurementReport(
        observation_context=ObservationContext(
            observer_device_context=ObserverContext(codes.DCM.Device, observer)
        ),
        procedure_reported=PROCEDURE,
        imaging_measurements=groups or [_group_of_study(identity, identity.result.finding)],
        title=codes.DCM.ImagingMeasurementReport if groups else TEXT_REPORT,
    )
    root = content[0]
    root.ContentSequence.append(_of_study(identity))
    return Comprehensive3DSR(
        evidence=evidence,
        content=root,
        is_complete=True,
        is_final=False,
        is_verified=False,
        previous_versions=[named_object(r, study_uid) for r in replaces if r.kind is Kind.SR]
        or None,
        **common(identity, Kind.SR),
    )


def _of_study(identity: Identity) -> ContainerContentItem:
    """Return what is said of the study, in codes and in words."""
    result, contains = identity.result, RelationshipTypeValues.CONTAINS
    container = ContainerContentItem(EVALUATIONS, relationship_type=contains)
    container.ContentSequence = ContentSequence(
        [
            CodeContentItem(finding_code(result.finding), presence(result), contains),
            CodeContentItem(codes.DCM.CADProcessingAndFindingsSummary, summary(result), contains),
            *(
                CodeContentItem(finding_code(one), presence(result, one), contains)
                for one in result.findings
                if one != result.finding
            ),
            *(TextContentItem(codes.DCM.Comment, text, contains) for text in sentences(result)),
        ]
    )
    return container


def _group_of_study(
    identity: Identity, one: Finding | None
) -> MeasurementsAndQualitativeEvaluations:
    """Return the group of TID 1501 of a study: without a slice to name, or with a volume."""
    result = identity.result
    finding = finding_code(one)
    at = threshold(result) if one is None or one.threshold is None else one.threshold
    of_worst = one is None or one == result.finding
    which = ("study",) if of_worst else ("study", finding.value)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            identity.tracking_uid(*which), f"{finding.meaning}, study"
        ),
        finding_type=finding,
        algorithm_id=_algorithm(identity, at),
        measurements=[_of_whole(one)] if one else None,
        qualitative_evaluations=[QualitativeEvaluation(finding, presence(result, one))],
    )


def _of_whole(finding: Finding) -> Measurement:
    """Return what is measured of a study: the volume of what is marked, else a probability."""
    if finding.volume_ml is None:
        return _probability(finding.probability)
    return Measurement(name=codes.SCT.Volume, value=finding.volume_ml, unit=_ML)


def _of_slice(identity: Identity, one: Slice) -> MeasurementsAndQualitativeEvaluations:
    finding = finding_code(one.finding)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            identity.tracking_uid(one.image.sop_uid, str(one.image.frame)),
            f"{finding.meaning}, slice {one.image.index + 1}",
        ),
        finding_type=finding,
        algorithm_id=_algorithm(identity, identity.result.threshold_of(one.finding.label)),
        measurements=[_probability(one.probability, _whole(one)), *_areas(one)],
        qualitative_evaluations=[
            QualitativeEvaluation(
                finding, presence_of_slice(identity.result, one.finding, positive=True)
            )
        ],
        source_images=[
            SourceImageForMeasurementGroup(
                one.header.sop_class_uid, one.header.sop_uid, one.frame_numbers
            )
        ],
    )


def _areas(one: Slice) -> list[Measurement]:
    """Return the area that is marked of the finding in a slice, where there is one."""
    area_mm2 = one.image.areas_mm2.get(one.finding.label)
    if area_mm2 is None:
        return []
    return [Measurement(name=codes.SCT.Area, value=area_mm2, unit=_MM2)]


def _of_regions(
    identity: Identity, one: Evidence, saliency: Reference | None
) -> list[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """Return a group for each region of a slice, with its box; see ``evidence.boxes``.

    One of a volume has no probability of its own.
    """
    found, where = [], one.slice
    told = None if identity.result.task is Task.VOLUME else [_probability(where.probability)]
    for number, box in enumerate(boxes(one.weights), start=1):
        region = ImageRegion(
            graphic_type="POLYLINE",
            graphic_data=_corners(box),
            source_image=SourceImageForRegion(
                where.header.sop_class_uid, where.header.sop_uid, where.frame_numbers
            ),
        )
        finding = finding_code(where.finding)
        name = f"{finding.meaning}, slice {where.image.index + 1}, evidence {number}"
        group = PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                identity.tracking_uid(where.image.sop_uid, str(where.image.frame), str(number)),
                name,
            ),
            referenced_region=region,
            finding_type=finding,
            algorithm_id=_algorithm(
                identity, identity.result.threshold_of(where.finding.label), one
            ),
            measurements=told,
            qualitative_evaluations=[
                QualitativeEvaluation(
                    finding,
                    presence_of_slice(
                        identity.result, where.finding, positive=where.image.positive
                    ),
                )
            ],
        )
        if saliency is not None:
            group[0].ContentSequence.append(
                ImageContentItem(
                    VISUAL_EXPLANATION,
                    saliency.sop_class_uid,
                    saliency.sop_uid,
                    relationship_type=RelationshipTypeValues.CONTAINS,
                )
            )
        _comment(group, _trust(one))
        found.append(group)
    return found


def _corners(box: Box) -> NDArray[np.float64]:
    """Return (5, 2) float64: column and row of the corners, the first one again at the end.

    PS3.3 C.18.6.1.1: 0.0 is the outer edge of the first pixel.
    """
    top, left, bottom, right = box.top, box.left, box.bottom, box.right
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.array(corners, np.float64)


def _trust(one: Evidence) -> list[str]:
    """Return what the box is, and how far it can be relied on."""
    explanation = one.explanation
    said = (
        f"Box around what speaks for the finding, by {explanation.method}: fit R2 "
        f"{explanation.fidelity_r2:.2f}, stability {explanation.stability:.2f}. "
        "Not the outline of a lesion."
    )
    return [f"{said} Do not lean on it: {explanation.poor_reason}." if explanation.poor else said]


def _algorithm(
    identity: Identity, at: float | None, one: Evidence | None = None
) -> AlgorithmIdentification:
    """Return who looked (TID 4019): the model, or Limen itself where none did.

    Parameters
    ----------
    at
        The threshold that the answer was compared with.
    """
    parameters = [f"Limen {__version__}"]
    if at is not None:
        parameters.append(f"Threshold {at:g}")
    if identity.model_sha256:
        parameters.append(f"SHA-256 {identity.model_sha256}")
    if one is not None:
        parameters.append(f"{one.explanation.method}: {one.explanation.parameters}")
    return AlgorithmIdentification(
        name=identity.model_name,
        version=identity.model_version or __version__,
        parameters=parameters,
    )


def _probability(value: float, place: CoordinatesForMeasurement | None = None) -> Measurement:
    return Measurement(
        name=codes.DCM.Probability,
        value=value,
        unit=_NO_UNITS,
        referenced_coordinates=[place] if place is not None else None,
    )


def _whole(one: Slice) -> CoordinatesForMeasurement:
    """Return all of a slice as what its probability is inferred from."""
    return CoordinatesForMeasurement(
        graphic_type="POLYLINE",
        graphic_data=_corners(Box(0, 0, one.header.rows, one.header.columns)),
        source_image=SourceImageForRegion(
            one.header.sop_class_uid, one.header.sop_uid, one.frame_numbers
        ),
    )


def _comment(group: Any, texts: Sequence[str]) -> None:
    """Append texts to a group: what codes alone do not say."""
    for text in texts:
        group[0].ContentSequence.append(
            TextContentItem(codes.DCM.Comment, text, RelationshipTypeValues.CONTAINS)
        )
