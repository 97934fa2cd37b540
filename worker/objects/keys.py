"""Key Object Selections: the positive slices, and what a later revision takes the place of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import DeviceObserverIdentifyingAttributes, ObserverContext
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from limen.implementation import MANUFACTURER
from worker.objects import Kind, Reference
from worker.objects.identity import Identity
from worker.objects.source import Source, named
from worker.objects.wording import sentences
from worker.objects.writing import common

__all__ = ["of_interest", "rejection"]

REJECTED: Final = Code("113037", "DCM", "Rejected for Patient Safety Reasons")
"""CID 7011: what is wrong must no longer be shown (IHE IOCM)."""


def of_interest(identity: Identity, source: Source) -> list[Dataset]:
    """Return the selection of the positive slices; none where there are none."""
    headers = {s.header.sop_uid: s.header for s in source.positive(identity.result)}
    if not headers:
        return []
    objects = [source.data_set(header) for header in headers.values()]
    said = " ".join(sentences(identity.result))
    return [_document(identity, objects, codes.DCM.OfInterest, said, "interest", 1)]


def rejection(identity: Identity, source: Source, rejected: Sequence[Reference]) -> list[Dataset]:
    """Return the note that what was sent before must no longer be shown.

    Its UID comes of what it names too: each PACS may have other objects.
    """
    if not rejected:
        return []
    objects = [named(reference, source.carried.study_uid) for reference in rejected]
    said = f"Replaced by revision {identity.result.revision} of the result, {identity.result.phase}"
    which = "rejected " + " ".join(sorted(reference.sop_uid for reference in rejected))
    return [_document(identity, objects, REJECTED, said, which, 2)]


def _document(  # noqa: PLR0917 - six different types, nothing to mix up
    identity: Identity, objects: list[Dataset], title: Code, said: str, which: str, number: int
) -> Dataset:
    observer = DeviceObserverIdentifyingAttributes(
        uid=identity.device_uid,
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=identity.model,
        serial_number=identity.model_sha256 or None,
    )
    content = KeyObjectSelection(
        document_title=title,
        referenced_objects=objects,
        observer_device_context=ObserverContext(codes.DCM.Device, observer),
        description=said,
    )
    return KeyObjectSelectionDocument(
        evidence=objects,
        content=content,
        **common(identity, Kind.KO, which, number=number),
    )
