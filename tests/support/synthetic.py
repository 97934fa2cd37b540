"""DICOM objects, bundles and model backends made in code for the worker's tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from worker.bundles.bundle import Bundle
from worker.bundles.manifest import Accepts, Label

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = [1, 0, 0, 0, 1, 0]
STUDY = "1.2.3.4"
SERIES = "1.2.3.4.5"

MANIFEST = """
name = "tiny"
version = "0.1.0"
licence = "Apache-2.0"
intended_use = "tests"
training_data = "none"

[weights]
file = "model.keras"
sha256 = "{sha256}"

[input]
size = [32, 32]
windows = [[40, 80], [80, 200], [40, 380]]

[[label]]
name = "any"
meaning = "Intracranial hemorrhage"
code = ["1386000", "SCT"]

[decision]
label = "any"
threshold = 0.5
chosen = "by hand"

[accepts]
modality = ["CT"]
body_part = ["HEAD", "BRAIN", "SKULL"]
orientation = "axial"

[golden]
file = "golden.npz"
tolerance = 1e-3

[[metrics]]
set = "none"
auc = 0.5
"""


def instance(number: int = 1, position_mm: float | None = None, **changes: Any) -> FileDataset:
    """Return a CT slice of 64 x 64, a head of 35 HU with a skull of 800 HU in air."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = changes.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = UID(changes.get("SOPClassUID", CT))
    meta.MediaStorageSOPInstanceUID = UID(f"{SERIES}.{number}")
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    place = float(number if position_mm is None else position_mm)
    elements: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": f"{SERIES}.{number}",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "Modality": "CT",
        "PatientName": "Test^Person",
        "PatientID": "P1",
        "BodyPartExamined": "HEAD",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": number,
        "ImageOrientationPatient": AXIAL,
        "ImagePositionPatient": [-16, -16, place],
        "PixelSpacing": [0.5, 0.5],
        "SliceThickness": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    pixels = changes.pop("pixels", head_hu())
    elements |= {"Rows": pixels.shape[-2], "Columns": pixels.shape[-1]} | changes
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" not in changes:
        dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def head_hu(*, lesion: bool = False, side: int = 64) -> np.ndarray:
    """Return (side, side) int16, HU: skull, brain, and perhaps a haemorrhage."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(y, x)
    hu = np.full((side, side), -1000, np.int16)
    hu[radius < 0.42] = 800
    hu[radius < 0.36] = 35
    if lesion:
        hu[np.hypot(y + 0.1, x - 0.12) < 0.1] = 75
    return hu


def encapsulated(dataset: FileDataset, syntax: str, frames: list[bytes]) -> FileDataset:
    """Return ``dataset`` with encoded frames of another transfer syntax."""
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def enhanced(frames: list[np.ndarray], positions_mm: list[float]) -> FileDataset:
    """Return an enhanced CT whose frames carry position and rescale of their own."""
    dataset = instance(
        pixels=np.stack(frames),
        SOPClassUID=ENHANCED_CT,
        NumberOfFrames=len(frames),
        ImageOrientationPatient=None,
        ImagePositionPatient=None,
        PixelSpacing=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
    )
    dataset.SharedFunctionalGroupsSequence = Sequence(
        [_item(PlaneOrientationSequence=_item(ImageOrientationPatient=AXIAL))]
    )
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [
            _item(
                PlanePositionSequence=_item(ImagePositionPatient=[0, 0, place]),
                PixelValueTransformationSequence=_item(
                    RescaleSlope=1, RescaleIntercept=number, RescaleType="HU"
                ),
            )
            for number, place in enumerate(positions_mm)
        ]
    )
    return dataset


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, Sequence([value]) if isinstance(value, Dataset) else value)
    return item


def save(dataset: FileDataset, folder: Path, name: str) -> Path:
    path = folder / name
    dataset.save_as(path, enforce_file_format=True)
    return path


def series(folder: Path, count: int = 4, lesion_in: tuple[int, ...] = ()) -> list[Path]:
    """Write a series of ``count`` slices, numbered from 1 against the geometry."""
    return [
        save(instance(n, position_mm=-n, pixels=head_hu(lesion=n in lesion_in)), folder, f"{n}.dcm")
        for n in range(1, count + 1)
    ]


def fake_bundle(**changes: Any) -> Bundle:
    """Return a bundle without files, for a backend that is no model."""
    values: dict[str, Any] = {
        "folder": Path("/nowhere"),
        "name": "fake",
        "version": "1",
        "licence": "Apache-2.0",
        "intended_use": "tests",
        "training_data": "none",
        "weights": Path("/nowhere/model.keras"),
        "sha256": hashlib.sha256(b"").hexdigest(),
        "size": (64, 64),
        "windows": ((40.0, 80.0), (80.0, 200.0), (40.0, 380.0)),
        "labels": (Label(name="any", meaning="Haemorrhage", code=("1386000", "SCT")),),
        "decision_label": "any",
        "threshold": 0.5,
        "threshold_chosen": "by hand",
        "accepts": Accepts(
            modality=("CT",),
            body_part=("HEAD", "BRAIN", "SKULL"),
            orientation="axial",
            min_extent_mm=0,
            min_slices=1,
            looks_like="",
        ),
        "golden_tensor": np.zeros((1, 64, 64, 3), np.float32),
        "golden_probability": np.full((1, 1), 0.01, np.float32),
        "golden_tolerance": 1e-3,
        "metrics": (),
    }
    return Bundle(**values | changes)


class BrightBlood:
    """A backend that calls pixels of 60 to 80 HU blood: the more, the surer."""

    def predict(self, batch: np.ndarray) -> np.ndarray:
        blood = (batch[..., 0] > 0.75) & (batch[..., 2] < 0.65)
        share = blood.sum(axis=(1, 2)) / 40.0
        return (1 / (1 + np.exp(4.6 - 9.2 * np.minimum(share, 1))))[:, None].astype(np.float32)


class TwoMembers(BrightBlood):
    """A backend of three columns: the mean of two members, and each: one sees blood, one little."""

    def predict(self, batch: np.ndarray) -> np.ndarray:
        sees = super().predict(batch)
        doubts = sees * 0.3
        return np.hstack([(sees + doubts) / 2, sees, doubts])
