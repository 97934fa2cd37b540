"""Whole studies made in code: heads that bleed, other parts of the body, and a way to analyse them.

Fast enough for thousands of studies: small matrices, files read without children, and a
backend that calls blood by its Hounsfield units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import generate_uid

from limen.errors import Unreadable
from limen.result import Provenance, Result, Timings
from tests.support import synthetic
from worker.bundles.bundle import Accepts, Bundle
from worker.bundles.manifest import StudyRule
from worker.dicom import headers, hounsfield
from worker.dicom.headers import Header
from worker.serving.engine import Engine
from worker.study.parts import Instance, Read, Stamp, StudyOutput, read_headers
from worker.study.prediction import predict_study

SIDE = 96
FIELD_MM = 240.0
STEP_MM = 10.0
HEIGHTS_MM = tuple(np.arange(-50.0, 71.0, STEP_MM))
"""Of a whole head: 13 slices of 10 mm."""

BLEEDS_MM = (-20.0, 20.0)
MAX_PIXELS = 1 << 24
STAMP = Stamp(
    1,
    Timings("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
    Provenance("0.1.0", "host", "0" * 64),
)


def head_bundle(study: StudyRule | None = None, **changes: Any) -> Bundle:
    """Return a bundle for heads with what a manifest for heads asks of a study by default."""
    accepts = {
        "modality": ("CT",),
        "body_part": ("HEAD", "BRAIN", "SKULL"),
        "orientation": "axial",
    }
    accepted = Accepts(**accepts | changes)  # type: ignore[arg-type]
    return synthetic.fake_bundle(accepts=accepted, study=study)


@cache
def head_hu(z_mm: float, *, bleeds: bool, side: int = SIDE) -> np.ndarray:
    """Return (side, side) int16, HU: an ellipsoid with skull and brain; blood on its left."""
    mm = FIELD_MM / side
    y, x = ((np.mgrid[:side, :side] - (side - 1) / 2) * mm).astype(float)
    scale = np.sqrt(max(0.05, 1 - (z_mm / 95) ** 2))
    radius = np.hypot(x / (72 * scale), y / (90 * scale))
    hu = np.full((side, side), -1000, np.int16)
    hu[radius < 1.1] = 40
    hu[radius < 1.05] = 1100
    hu[radius < 0.94] = 30
    if bleeds:
        hu[np.hypot((x - 34) / 14, (y - 5) / 18) < 1] = 70
    return hu


@cache
def chest_hu(z_mm: float, side: int = SIDE) -> np.ndarray:
    """Return (side, side) int16, HU: a chest of 340 mm with two lungs and a spine."""
    mm = 400 / side
    y, x = ((np.mgrid[:side, :side] - (side - 1) / 2) * mm).astype(float)
    hu = np.full((side, side), -1000, np.int16)
    hu[np.hypot(x / 170, y / 115) < 1] = 45
    for middle in (-80, 80):
        hu[np.hypot((x - middle) / 62, y / (80 + z_mm / 20)) < 1] = -850
    hu[np.hypot(x, y - 75) < 18] = 400
    return hu


@cache
def abdomen_hu(z_mm: float, side: int = SIDE) -> np.ndarray:
    """Return (side, side) int16, HU: an abdomen of 320 mm with a liver and a spine."""
    mm = 400 / side
    y, x = ((np.mgrid[:side, :side] - (side - 1) / 2) * mm).astype(float)
    hu = np.full((side, side), -1000, np.int16)
    hu[np.hypot(x / 160, y / 110) < 1] = -90
    hu[np.hypot(x / 145, y / 95) < 1] = 45
    hu[np.hypot((x + 70) / 50, (y + z_mm / 20) / 60) < 1] = 62
    hu[np.hypot(x, y - 60) < 18] = 400
    return hu


def slice_of(
    hu: np.ndarray, z_mm: float, number: int, series: str = "1", **changes: Any
) -> FileDataset:
    """Return a CT slice whose middle lies at (0, 0, z)."""
    field_mm = changes.pop("field_mm", FIELD_MM)
    mm = field_mm / hu.shape[1]
    corner = -(field_mm - mm) / 2
    elements: dict[str, Any] = {
        "SOPInstanceUID": f"{synthetic.SERIES}.{series}.{number}",
        "SeriesInstanceUID": f"{synthetic.SERIES}.{series}",
        "FrameOfReferenceUID": f"{synthetic.STUDY}.7",
        "PatientBirthDate": "19500101",
        "SeriesNumber": 2,
        "SeriesDescription": "HEAD 10.0",
        "ConvolutionKernel": "H30s",
        "ImagePositionPatient": [corner, corner, z_mm],
        "SliceLocation": z_mm,
        "PixelSpacing": [mm, mm],
        "SliceThickness": STEP_MM,
    }
    dataset = synthetic.instance(number, pixels=hu.astype(np.int16), **elements | changes)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def head(
    series: str = "1",
    heights_mm: Sequence[float] = HEIGHTS_MM,
    bleeds_mm: tuple[float, float] | None = BLEEDS_MM,
    first: int = 1,
    **changes: Any,
) -> list[FileDataset]:
    """Return a series of a head that bleeds between two heights, or not at all."""
    return [
        slice_of(head_hu(z, bleeds=_within(z, bleeds_mm)), z, number, series, **changes)
        for number, z in enumerate(map(float, heights_mm), start=first)
    ]


def enhanced_head(
    heights_mm: Sequence[float] = HEIGHTS_MM,
    bleeds_mm: tuple[float, float] | None = BLEEDS_MM,
    **changes: Any,
) -> FileDataset:
    """Return the same head as one enhanced instance."""
    heights = list(map(float, heights_mm))
    slices = [head_hu(z, bleeds=_within(z, bleeds_mm)) for z in heights]
    dataset = synthetic.enhanced(slices, heights)
    mm, corner = FIELD_MM / SIDE, -(FIELD_MM - FIELD_MM / SIDE) / 2
    measures = Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mm, mm], STEP_MM
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [measures]
    for z, group in zip(heights, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        group.PlanePositionSequence[0].ImagePositionPatient = [corner, corner, z]
        group.PixelValueTransformationSequence[0].RescaleIntercept = 0
    elements = {"FrameOfReferenceUID": f"{synthetic.STUDY}.7", "SeriesDescription": "HEAD 10.0"}
    for keyword, value in (elements | changes).items():
        setattr(dataset, keyword, value)
    return dataset


def _within(z_mm: float, span_mm: tuple[float, float] | None) -> bool:
    return span_mm is not None and span_mm[0] <= z_mm <= span_mm[1]


def new_uid(*parts: object) -> str:
    """Return the UID that these parts always give."""
    return str(generate_uid(entropy_srcs=[str(part) for part in parts]))


class DirectDecoder:
    """Reads as the decoder's children do, in this process: nothing here is hostile.

    Files of the same bytes are read once.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int], Any] = {}

    def headers(self, paths: Sequence[Path]) -> list[Header | Unreadable]:
        found = [self._once(path, 0, headers.read) for path in paths]
        return [
            replace(header, path=path) if isinstance(header, Header) else header
            for header, path in zip(found, paths, strict=True)
        ]

    def hounsfield_many(self, items: Iterable[tuple[Path, int]]) -> Iterator[Any]:
        for path, frame in items:
            yield self._once(path, frame, lambda p, n=frame: hounsfield.read(p, n, MAX_PIXELS))

    def _once(self, path: Path, frame: int, read: Callable[[Path], Any]) -> Any:
        key = hashlib.sha256(path.read_bytes()).digest(), frame
        if key not in self._known:
            try:
                self._known[key] = read(path)
            except Unreadable as exc:
                self._known[key] = exc
        return self._known[key]


@dataclass(frozen=True, repr=False)
class Reader:
    """Analyses studies with a decoder, an engine and a bundle."""

    decoder: Any
    engine: Engine
    bundle: Bundle

    def output(self, folder: Path, datasets: Sequence[FileDataset]) -> StudyOutput:
        """Write the instances and predict the study."""
        return self.predict(self.written(folder, datasets))

    def written(self, folder: Path, datasets: Sequence[FileDataset]) -> list[Instance]:
        """Write the instances; they are named as the receiver would name them."""
        return [
            Instance(
                synthetic.save(dataset, folder, f"{n:04d}.dcm"),
                str(dataset.SOPInstanceUID),
                str(dataset.SeriesInstanceUID),
            )
            for n, dataset in enumerate(datasets)
        ]

    def result(self, folder: Path, datasets: Sequence[FileDataset]) -> Result:
        return self.output(folder, datasets).result

    def predict(self, instances: Sequence[Instance]) -> StudyOutput:
        """Predict a study of files."""
        read: Read = read_headers(instances, self.decoder)
        study_uid = read.headers[0].study_uid if read.headers else synthetic.STUDY
        return predict_study(study_uid, read, self.decoder, self.engine, self.bundle, STAMP)
