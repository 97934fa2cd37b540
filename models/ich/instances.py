"""Write a phantom head as DICOM instances: CT (PS3.3 A.3) or MR (PS3.3 A.4) Image Storage."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from models.ich.scanner import Head

__all__ = ["Patient", "Vendor", "write_study"]

_DATE, _TIME = "20250301", "101500"
_PADDING = -2000


class Vendor(StrEnum):
    """How pixels are stored; scanners differ, and a receiver must read each."""

    SIGNED = "signed"
    """Signed, HU as they are."""
    UNSIGNED = "unsigned"
    """Unsigned, RescaleIntercept -1024."""
    TWELVE_BIT = "twelve-bit"
    """Unsigned, 12 bits stored in 16, RescaleIntercept -1024."""
    PADDED = "padded"
    """Signed, RescaleIntercept -1024, stored value -2000 outside the circle of reconstruction."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Whom the study is filed under; every value says TEST."""

    name: str = "TEST^PHANTOM"
    id: str = "LIMEN-TEST"
    accession: str = "LIMENTEST"
    study: str = "TEST CT head without contrast (phantom)"


def write_study(
    head: Head,
    folder: Path,
    *,
    patient: Patient | None = None,
    vendor: Vendor = Vendor.SIGNED,
    modality: str = "CT",
) -> list[Path]:
    """Write one instance for each slice, from the lowest up.

    Parameters
    ----------
    head
        What to write. The UIDs come from its seed, what bled, and ``modality``:
        the same head is the same study again.
    folder
        Made if it does not exist.
    modality
        ``CT``, or ``MR`` for a made-up T1 contrast of the same head.

    Raises
    ------
    ValueError
        ``modality`` is neither.
    """
    if modality not in ("CT", "MR"):
        raise ValueError(f"modality must be CT or MR (got {modality!r})")
    folder.mkdir(parents=True, exist_ok=True)
    patient = patient or Patient()
    paths = []
    for k in range(len(head.hu)):
        ds = _common(head, k, patient, modality)
        if modality == "CT":
            _ct(ds, head, k, vendor)
        else:
            _mr(ds, head, k)
        path = folder / f"{modality}{k + 1:03d}.dcm"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _uid(head: Head, modality: str, *parts: object) -> str:
    truth = f"{head.kind}:{head.hu.shape}:{head.size_ml:.3f}"
    sources = ["limen phantom", str(head.seed), truth, modality, *map(str, parts)]
    return str(generate_uid(entropy_srcs=sources))


def _common(head: Head, k: int, patient: Patient, modality: str) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.InstanceCreationDate, ds.InstanceCreationTime = _DATE, _TIME
    ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
    ds.SOPInstanceUID = _uid(head, modality, "instance", k)
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = _DATE
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = _TIME
    ds.AccessionNumber = patient.accession
    ds.Modality = modality
    ds.Manufacturer = "Limen phantom"
    ds.ManufacturerModelName = "models.ich.phantom"
    ds.InstitutionName = "TEST"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = patient.study
    ds.SeriesDescription = "Head, sharp" if head.sharp else "Head"
    ds.PatientName, ds.PatientID = patient.name, patient.id
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.BodyPartExamined = "HEAD"
    ds.SliceThickness = f"{head.thickness_mm:.4f}"
    ds.SpacingBetweenSlices = f"{head.spacing_mm[0]:.4f}"
    ds.DeviceSerialNumber = "TEST"
    ds.SoftwareVersions = "TEST"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID = _uid(head, modality, "study")
    ds.SeriesInstanceUID = _uid(head, modality, "series")
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 2, 1
    ds.InstanceNumber = k + 1
    x, y, z = head.origin_mm
    step, row_mm, column_mm = head.spacing_mm
    ds.ImagePositionPatient = [f"{v:.4f}" for v in (x, y, z + k * step)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = _uid(head, modality, "frame of reference")
    ds.PositionReferenceIndicator = ""
    ds.SliceLocation = f"{z + k * step:.4f}"
    ds.ImageComments = "Synthetic head. TEST data, no patient."
    ds.PixelSpacing = [f"{row_mm:.6f}", f"{column_mm:.6f}"]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = head.hu.shape[1:]
    ds.BurnedInAnnotation = "NO"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _ct(ds: Dataset, head: Head, k: int, vendor: Vendor) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP = 120
    ds.DataCollectionDiameter = 500
    ds.ReconstructionDiameter = f"{head.spacing_mm[2] * head.hu.shape[2]:.3f}"
    ds.GantryDetectorTilt = 0
    ds.ConvolutionKernel = "HR40" if head.sharp else "STANDARD"
    ds.WindowCenter, ds.WindowWidth = 40, 80
    ds.RescaleType = "HU"
    ds.RescaleSlope = 1
    hu = head.hu[k]
    if vendor is Vendor.SIGNED:
        ds.RescaleIntercept = 0
        _pixels(ds, hu, stored=16, signed=True)
        return
    ds.RescaleIntercept = -1024
    if vendor is Vendor.PADDED:
        line = np.linspace(-1, 1, hu.shape[0])
        ds.PixelPaddingValue = _PADDING
        circle = np.hypot(line[:, None], line) <= 1
        _pixels(ds, np.where(circle, hu + np.int16(1024), _PADDING), stored=16, signed=True)
        return
    stored = 12 if vendor is Vendor.TWELVE_BIT else 16
    _pixels(ds, np.clip(hu, -1024, 3071) + 1024, stored=stored, signed=False)


def _mr(ds: Dataset, head: Head, k: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions = "SE", "NONE", ""
    ds.MRAcquisitionType = "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength = 500, 12, 1
    ds.MagneticFieldStrength = "1.5"
    ds.WindowCenter, ds.WindowWidth = 400, 800
    # Fat bright, brain grey, CSF dark, bone and air black: near enough to T1.
    levels_hu = [-1024, -300, -100, 0, 12, 30, 40, 70, 150, 400, 3071]
    signal = [5, 10, 750, 120, 150, 430, 380, 420, 200, 40, 10]
    _pixels(ds, np.interp(head.hu[k], levels_hu, signal), stored=12, signed=False)


def _pixels(ds: Dataset, values: NDArray[np.generic], *, stored: int, signed: bool) -> None:
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, stored, stored - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = np.asarray(values).astype("<i2" if signed else "<u2").tobytes()
