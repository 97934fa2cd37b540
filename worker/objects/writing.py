"""From what a library made to the file that leaves: patient, equipment, times, bytes."""

from __future__ import annotations

from io import BytesIO
from typing import Any, Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, ExplicitVRLittleEndian

from limen import __version__
from limen.implementation import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    MANUFACTURER,
)
from limen.uids import derived_uid
from worker.dicom.carried import Carried
from worker.objects import Built, Kind
from worker.objects.identity import Identity

__all__ = ["common", "device", "finished"]


_UNPAIRED: Final = ("HEAD", "BRAIN", "SKULL", "NECK", "HEADNECK", "CHEST", "ABDOMEN")
_UNKNOWN_DATE: Final = "19000101"
_OF_THE_RUN: Final = (
    *("InstanceCreationDate", "InstanceCreationTime"),
    *("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)


def common(identity: Identity, kind: Kind, *which: str, number: int = 1) -> dict[str, Any]:
    """Return what every object says of its series and its maker, as highdicom's arguments."""
    return {
        "series_instance_uid": identity.series_uid(kind),
        "series_number": identity.series_number(kind),
        "series_description": identity.series_description(kind),
        "sop_instance_uid": identity.sop_uid(kind, *which),
        "instance_number": number,
        "manufacturer": MANUFACTURER,
    }


def device(identity: Identity) -> dict[str, Any]:
    """Return what images say of their maker, as highdicom's arguments."""
    return {
        "manufacturer_model_name": identity.model_name[:64],
        "software_versions": f"Limen {__version__}",
        "device_serial_number": identity.model_sha256 or "none",
    }


def finished(kind: Kind, dataset: Dataset, identity: Identity, carried: Carried) -> Built:
    """Return an object as it is sent.

    Content Date and Time are those of the study: the same study gives the same bytes. When it
    was looked at is in the result, whose revision the objects name.
    """
    _settle(dataset, carried)
    if kind is Kind.SC:
        dataset.ContentDate, dataset.ContentTime = _moment(carried)
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = identity.model_name[:64]
    dataset.DeviceSerialNumber = identity.model_sha256 or "none"
    dataset.SoftwareVersions = [f"Limen {__version__}"]
    if identity.model_version:
        dataset.SoftwareVersions = [f"Limen {__version__}", identity.model[:64]]
    dataset.ContributingEquipmentSequence = [_equipment(identity)]
    carried.into(dataset, plain=_is_plain(dataset))
    _laterality(kind, dataset)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return Built(
        kind,
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        buffer.getvalue(),
    )


def _laterality(kind: Kind, dataset: Dataset) -> None:
    """Say that the side is unknown where the part may have one (PS3.3 C.7.3.1, type 2C)."""
    if kind in {Kind.SR, Kind.KO}:
        dataset.pop("BodyPartExamined", None)  # not of their series
    elif kind is not Kind.SEG and dataset.get("BodyPartExamined") not in _UNPAIRED:
        dataset.Laterality = ""


def _settle(dataset: Dataset, carried: Carried) -> None:
    """Put what is the same each time in the place of what a library makes anew in each run."""
    for keyword in _OF_THE_RUN:
        dataset.pop(keyword, None)
    for begin in ("Content", "PresentationCreation"):
        if f"{begin}Date" in dataset:
            moment = zip(("Date", "Time"), _moment(carried), strict=True)
            for end, value in moment:
                setattr(dataset, begin + end, value)
    uid = derived_uid("limen.dimensions", str(dataset.SOPInstanceUID))
    for element in dataset.iterall():
        if element.keyword == "DimensionOrganizationUID":
            element.value = uid


def _moment(carried: Carried) -> tuple[str, str]:
    """Return date and time of the study, or those that nobody takes for real."""
    date, time = carried.text("StudyDate"), carried.text("StudyTime")
    return date or _UNKNOWN_DATE, time if date and time else "000000"


def _equipment(identity: Identity) -> Dataset:
    """Return the item of PS3.3 C.12.1.1.5 that names the model: IHE AIR looks for it there."""
    purpose, item = Dataset(), Dataset()
    code = codes.DCM.ProcessingEquipment
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer = MANUFACTURER
    item.ManufacturerModelName = identity.model_name[:64]
    item.DeviceSerialNumber = identity.model_sha256 or "none"
    item.SoftwareVersions = identity.model_version[:64] or __version__
    item.ContributionDescription = "Looks for a finding and explains it; not for diagnostic use"
    return item


def _is_plain(dataset: Dataset) -> bool:
    """Return whether every text is ASCII, so that any character set can say it."""
    return all(
        str(value).isascii()
        for element in dataset.iterall()
        if element.VR in {"LO", "SH", "UT", "ST", "LT", "UC", "PN"}
        for value in ([element.value] if element.VM <= 1 else element.value)
    )
