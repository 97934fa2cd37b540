"""Journal rows, settings, DICOM data sets and results made in code; a clock that a test moves."""

from __future__ import annotations

import hashlib
import warnings
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.dataset import FileDataset as PydicomFile
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from limen.config import Config
from limen.journal import NewInstance, Summary
from limen.result import (
    Finding,
    Image,
    Model,
    Outcome,
    Phase,
    Provenance,
    Result,
    Study,
    Timings,
)
from limen.uids import key_of

if TYPE_CHECKING:
    from scp.header import Identity
    from scp.spool import Kept, Spool

STUDY_UID = "1.2.826.0.1.3680043.10.1.1"
SERIES_UID = "1.2.826.0.1.3680043.10.1.1.1"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SUMMARY = Summary(Outcome.POSITIVE, "2 of 3 slices at or above 0.5", 0.9, 2, 3)
SHA256 = "ab" * 32


class Clock:
    """A wall clock that moves when a test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)


def new_instance(
    number: int = 1,
    study_uid: str = STUDY_UID,
    content: str = "",
    at: datetime = START,
) -> NewInstance:
    """Return the row of a kept instance; another ``content`` gives another digest."""
    sop_uid = f"{study_uid}.1.{number}"
    digest = hashlib.sha256(f"{sop_uid}{content}".encode()).hexdigest()
    study_key, sop_key = key_of(study_uid), key_of(sop_uid)
    return NewInstance(
        study_key=study_key,
        sop_key=sop_key,
        digest=digest,
        study_uid=study_uid,
        series_uid=f"{study_uid}.1",
        sop_uid=sop_uid,
        sop_class_uid=str(CTImageStorage),
        transfer_syntax=str(ExplicitVRLittleEndian),
        path=f"{study_key}/{sop_key}{f'-{digest[:16]}' if content else ''}.dcm",
        size_bytes=1000,
        peer="CT1",
        accession="",
        received_at=at,
    )


def keep(
    spool: Spool,
    identity: Identity,
    body: bytes,
    syntax: str = str(ExplicitVRLittleEndian),
    peer: str = "CT1",
) -> Kept:
    """Keep a data set in a spool as one that was received."""
    part = spool.begin(identity.sop_class_uid, identity.sop_uid, syntax, peer)
    part.write(memoryview(body))
    return part.keep(identity)


def settings(folder: Path, **sections: Any) -> Config:
    """Return settings that keep everything in ``folder``; sections are overlaid by key."""
    tree: dict[str, Any] = {
        "node": {"data_dir": folder / "data"},
        "scp": {"port": 0, "min_free_bytes": 0, "quiet_s": 30.0, "release_quiet_s": 0.2},
        "queue": {"dispatch_s": 0.1},
    }
    for name, keys in sections.items():
        tree[name] = tree.get(name, {}) | keys if isinstance(keys, dict) else keys
    return Config(**tree)


def data_set(number: int = 1, study_uid: str = STUDY_UID, **elements: Any) -> Dataset:
    """Return a small CT data set; an element given as None is left out."""
    ds = Dataset()
    tree: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{study_uid}.1.{number}",
        "Modality": "CT",
        "PatientName": "Doe^Jane",
        "PatientID": "P-4711",
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": f"{study_uid}.1",
        "InstanceNumber": number,
        "Rows": 4,
        "Columns": 4,
        "BitsAllocated": 16,
        "PixelData": bytes(range(32)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom objects to values that are wrong on purpose
        for keyword, value in (tree | elements).items():
            if value is not None:
                setattr(ds, keyword, value)
    if "PixelData" in ds:
        ds["PixelData"].VR = "OW"
    return ds


def encode(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Return the bytes of a data set."""
    buffer = BytesIO()
    ds.set_original_encoding(is_implicit_vr=syntax == ImplicitVRLittleEndian, is_little_endian=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pydicom.filebase import DicomFileLike

        file = DicomFileLike(buffer)
        file.is_little_endian = True
        file.is_implicit_VR = syntax == ImplicitVRLittleEndian
        write_dataset(file, ds)
    return buffer.getvalue()


def write_file(path: Path, ds: Dataset, preamble: bytes = bytes(128)) -> bytes:
    """Write a DICOM file and return the bytes of its data set."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    PydicomFile(str(path), ds, file_meta=meta, preamble=preamble).save_as(
        path, enforce_file_format=True
    )
    raw = path.read_bytes()
    return raw[raw.index(encode(ds)) :]


def result(phase: Phase = Phase.PREDICTION, revision: int = 1, **changes: Any) -> Result:
    """Return a result document with one positive slice."""
    fields: dict[str, Any] = {
        "study": Study(STUDY_UID, patient_name="Müller^Jürgen", modality="CT"),
        "revision": revision,
        "phase": phase,
        "outcome": Outcome.POSITIVE,
        "reason": "1 of 1 slices at or above 0.5",
        "model": Model("tiny", "0.1.0", SHA256, ["any"], 0.5),
        "finding": Finding("any", "Intracranial hemorrhage", 0.9, 1, 1, 1),
        "timings": Timings("2026-01-02T03:04:05Z", "2026-01-02T03:04:10.500Z"),
        "provenance": Provenance("0.1.0", "host", SHA256),
        "images": [
            Image(f"{SERIES_UID}.1", 1, 0, -12.5, {"any": 0.9}, True, original="a-1.png"),
        ],
    }
    return Result(**(fields | changes))
