"""A destination that tells the audit trail what went there."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any
from urllib.parse import urlsplit

from limen.audit import Kind, Trail
from limen.audit.event import FAILED
from limen.config import Config
from limen.errors import Permanent
from limen.journal import Objects
from limen.result import Result
from limen.states import ObjectState
from worker.destinations import Destination, Parcel, Receipt

__all__ = ["audited"]

_STORED = (ObjectState.SENT, ObjectState.COMMITTED)
_REMEMBERED = 1000


def audited(
    destinations: dict[str, Destination], config: Config, journal: Objects, trail: Trail
) -> dict[str, Destination]:
    """Return the same destinations, each telling what leaves for it.

    The archive in a folder is part of this node: nothing leaves.
    """
    if not trail.is_on:
        return destinations
    wrapped = dict(destinations)
    places = {"django": config.django_url}
    if config.destination.archive.bucket:
        places["archive"] = f"gs://{config.destination.archive.bucket}"
    for hook in config.destination.webhook:
        parts = urlsplit(hook.url)  # without its query, which may hold a token
        places[hook.name] = f"{parts.scheme}://{parts.netloc}{parts.path}"
    for ris in config.destination.hl7:
        places[ris.name] = f"mllp{'s' if ris.tls else ''}://{ris.host}:{ris.port}"
    for name, uri in places.items():
        if name in wrapped:
            wrapped[name] = _Exporting(wrapped[name], trail, uri)
    for pacs in config.destination.pacs:
        where = {"peer": pacs.ae_title, "address": pacs.host}
        wrapped[pacs.name] = _Sending(wrapped[pacs.name], trail, journal, where)
    for web in config.destination.dicomweb:
        wrapped[web.name] = _Sending(wrapped[web.name], trail, journal, {"address": web.url})
    return wrapped


def _about(parcel: Parcel) -> dict[str, Any] | None:
    """Return whose study a parcel is about; None when it brings no result."""
    result = parcel.result
    if result is None and parcel.document:
        result = Result.from_json(parcel.document)
    if result is None:
        return None
    study = result.study
    return {
        "study_uid": study.study_uid,
        "accession": study.accession,
        "patient_id": study.patient_id,
    }


class _Exporting:
    """A place that takes documents and files."""

    def __init__(self, inner: Destination, trail: Trail, uri: str) -> None:
        self._inner = inner
        self._trail = trail
        self._uri = uri

    def deliver(self, parcel: Parcel) -> Receipt:
        """Deliver a parcel. See ``Destination``."""
        about = _about(parcel)
        try:
            receipt = self._inner.deliver(parcel)
        except Permanent as exc:
            if about is not None:
                self._tell(about, outcome=FAILED, reason=str(exc))
            raise
        if about is not None and receipt.reached:
            self._tell(about)
        return receipt

    def _tell(self, about: dict[str, Any], **more: Any) -> None:
        self._trail.record(Kind.EXPORTED, uri=self._uri, **about, **more)


class _Sending:
    """A place that takes DICOM objects."""

    def __init__(
        self, inner: Destination, trail: Trail, journal: Objects, where: dict[str, str]
    ) -> None:
        self._inner = inner
        self._trail = trail
        self._journal = journal
        self._where = where
        # A PACS that is away is asked again and again: that its study is under way is told once.
        self._announced: deque[str] = deque(maxlen=_REMEMBERED)

    def deliver(self, parcel: Parcel) -> Receipt:
        """Deliver a parcel. See ``Destination``."""
        about = _about(parcel)
        if about is None:
            return self._inner.deliver(parcel)
        about |= self._where
        before = self._stored(parcel)
        if not before and parcel.delivery not in self._announced:
            self._announced.append(parcel.delivery)
            self._trail.record(Kind.SENDING, **about)
        try:
            return self._inner.deliver(parcel)
        except Permanent as exc:
            self._trail.record(Kind.SENT, outcome=FAILED, reason=str(exc), **about)
            raise
        finally:
            sent = self._stored(parcel) - before
            if sent:
                self._trail.record(Kind.SENT, instances=dict(sent), **about)

    def _stored(self, parcel: Parcel) -> Counter[str]:
        """Return what is there of a delivery, by SOP class."""
        objects = self._journal.of(parcel.delivery)
        return Counter(o.sop_class_uid for o in objects if o.state in _STORED)
