"""An event as an audit message: XML by the schema of PS3.15 A.5.1, filled in as A.5.3 says."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree

from limen.audit.event import Event, Kind

__all__ = ["Source", "to_xml", "told"]

_Code = tuple[str, str, str]
"""Value, coding scheme, meaning."""

_APPLICATION: Final = ("110150", "DCM", "Application")
_DESTINATION: Final = ("110152", "DCM", "Destination Role ID")
_SOURCE: Final = ("110153", "DCM", "Source Role ID")
_DESTINATION_MEDIA: Final = ("110154", "DCM", "Destination Media")
_URI_MEDIA: Final = ("110037", "DCM", "URI")
_STUDY: Final = ("110180", "DCM", "Study Instance UID")
_PATIENT_NUMBER: Final = ("2", "RFC-3881", "Patient Number")
_NODE_ID: Final = ("110182", "DCM", "Node ID")

_EVENTS: Final[dict[Kind, tuple[_Code, str, _Code | None]]] = {
    Kind.STARTED: (
        ("110100", "DCM", "Application Activity"),
        "E",
        ("110120", "DCM", "Application Start"),
    ),
    Kind.STOPPED: (
        ("110100", "DCM", "Application Activity"),
        "E",
        ("110121", "DCM", "Application Stop"),
    ),
    Kind.RECEIVED: (("110104", "DCM", "DICOM Instances Transferred"), "C", None),
    Kind.SENDING: (("110102", "DCM", "Begin Transferring DICOM Instances"), "E", None),
    Kind.SENT: (("110104", "DCM", "DICOM Instances Transferred"), "C", None),
    Kind.EXPORTED: (("110106", "DCM", "Export"), "R", None),
    Kind.VIEWED: (("110103", "DCM", "DICOM Instances Accessed"), "R", None),
    Kind.LOGGED_IN: (("110114", "DCM", "User Authentication"), "E", ("110122", "DCM", "Login")),
    Kind.LOGGED_OUT: (("110114", "DCM", "User Authentication"), "E", ("110123", "DCM", "Logout")),
    Kind.REJECTED: (
        ("110113", "DCM", "Security Alert"),
        "E",
        ("110126", "DCM", "Node Authentication"),
    ),
    Kind.DEPLOYED: (
        ("110113", "DCM", "Security Alert"),
        "E",
        ("110131", "DCM", "Software Configuration"),
    ),
    Kind.ORDERED: (
        ("110113", "DCM", "Security Alert"),
        "E",
        ("110132", "DCM", "Use of Restricted Function"),
    ),
    Kind.DROPPED: (
        ("110113", "DCM", "Security Alert"),
        "E",
        ("110134", "DCM", "Audit Recording Started"),
    ),
}
"""Kind -> EventID, EventActionCode, EventTypeCode."""

_MACHINE_NAME, _IP_ADDRESS, _URI = "1", "2", "5"
_DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'
# What XML 1.0 or a line cannot hold: an AE title or a patient ID may come with anything in it.
_NOT_XML: Final = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Source:
    """Who sends the messages: PS3.15 A.5.2, Audit Source.

    Parameters
    ----------
    source_id
        AuditSourceID.
    site_id
        AuditEnterpriseSiteID; empty for none.
    host
        Name of this machine: one, and the same in all messages (A.5.2.4).
    """

    def __init__(self, source_id: str, site_id: str, host: str) -> None:
        self.source_id = source_id
        self.site_id = site_id
        self.host = host


def told() -> tuple[str, ...]:
    """Return the names of the events that can be told (PS3.15 A.5 c), as the standard has them."""
    return tuple(sorted({event_id[2] for event_id, _, _ in _EVENTS.values()}))


def to_xml(event: Event, source: Source) -> bytes:
    """Return the message as UTF-8, without a byte order mark."""
    root = ElementTree.Element("AuditMessage")
    event_id, action, event_type = _EVENTS[event.kind]
    head = _add(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=event.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator=str(event.outcome),
    )
    _add_code(head, "EventID", event_id)
    if event_type is not None:
        _add_code(head, "EventTypeCode", event_type)
    if event.reason and event.outcome:
        _add(head, "EventOutcomeDescription").text = _text(event.reason)
    _participants(root, event, source)
    site = {"AuditEnterpriseSiteID": source.site_id} if source.site_id else {}
    told = _add(root, "AuditSourceIdentification", **site, AuditSourceID=source.source_id)
    _add(told, "AuditSourceTypeCode", **{"csd-code": "4"})  # an application server
    _objects(root, event)
    # One line: collectors keep a message to a line, and write its ends of lines as something else.
    return _DECLARATION + ElementTree.tostring(root, encoding="unicode").encode()


def _participants(root: ElementTree.Element, event: Event, source: Source) -> None:
    """Add who took part: PS3.15 A.5.3 lists them for each message."""
    node = _Participant(root, event, source)
    match event.kind:
        case Kind.STARTED | Kind.STOPPED:
            node.ours((_APPLICATION,), requestor=False)
        case Kind.RECEIVED:
            node.theirs((_SOURCE,), requestor=True)
            node.ours((_DESTINATION,), requestor=False)
        case Kind.SENDING | Kind.SENT:
            node.ours((_SOURCE,), requestor=True)
            node.theirs((_DESTINATION,), requestor=False)
        case Kind.EXPORTED:
            node.ours((_SOURCE,), requestor=True)
            node.media()
        case Kind.VIEWED:
            node.person()
        case Kind.LOGGED_IN | Kind.LOGGED_OUT | Kind.DEPLOYED:
            node.person()
            node.ours((_APPLICATION,), requestor=False)
        case Kind.REJECTED:
            node.ours((), requestor=False)
            node.theirs((), requestor=False)
        case Kind.ORDERED:
            node.ours((), requestor=False)
            node.person(requestor=False)
        case Kind.DROPPED:
            node.ours((), requestor=False)


class _Participant:
    """Adds active participants of one event."""

    def __init__(self, root: ElementTree.Element, event: Event, source: Source) -> None:
        self._root = root
        self._event = event
        self._source = source

    def ours(self, roles: Iterable[_Code], *, requestor: bool) -> None:
        """Add the process that the event is of."""
        event = self._event
        titles = {"AlternativeUserID": f"AETITLES={event.ae_title}"} if event.ae_title else {}
        self._one(
            roles,
            requestor,
            self._source.host,
            UserID=str(event.pid),
            **titles,
            UserName=f"limen {event.process}",
        )

    def theirs(self, roles: Iterable[_Code], *, requestor: bool) -> None:
        """Add the other side."""
        event = self._event
        titles = {"AlternativeUserID": f"AETITLES={event.peer}"} if event.peer else {}
        self._one(roles, requestor, event.address, UserID=event.peer or event.address, **titles)

    def person(self, *, requestor: bool = True) -> None:
        """Add somebody with an account: loginName@domain-name (A.5.2.1)."""
        name = self._event.user
        user_id = f"{name}@{self._source.host}"
        self._one((), requestor, self._event.address, UserID=user_id, UserName=name)

    def media(self) -> None:
        """Add where data was exported to."""
        element = _add(
            self._root,
            "ActiveParticipant",
            UserID=self._event.uri,
            UserIsRequestor="false",
            NetworkAccessPointID=self._event.uri,
            NetworkAccessPointTypeCode=_URI,
        )
        _add_code(element, "RoleIDCode", _DESTINATION_MEDIA)
        _add_code(_add(element, "MediaIdentifier"), "MediaType", _URI_MEDIA)

    def _one(
        self, roles: Iterable[_Code], requestor: bool, address: str, **attributes: str
    ) -> None:
        where = {}
        if address:
            where = {
                "NetworkAccessPointID": address,
                "NetworkAccessPointTypeCode": _IP_ADDRESS if _is_ip(address) else _MACHINE_NAME,
            }
        element = _add(
            self._root,
            "ActiveParticipant",
            **attributes,
            UserIsRequestor="true" if requestor else "false",
            **where,
        )
        for role in roles:
            _add_code(element, "RoleIDCode", role)


def _objects(root: ElementTree.Element, event: Event) -> None:
    """Add what it was about: a study and its patient, or what an alert is about."""
    if event.study_uid:
        study = _add_object(root, _STUDY, event.study_uid, "2", "3", event.study_uid)
        if event.accession or event.instances:
            about = _add(study, "ParticipantObjectDescription")
            if event.accession:
                _add(about, "Accession", Number=event.accession)
            # Of what was sent as a document there is no SOP class; required beside Accession.
            for uid, number in sorted(event.instances.items()) or [("", 0)]:
                named = {"UID": uid} if uid else {}
                _add(about, "SOPClass", **named, NumberOfInstances=str(number))
        _add_object(root, _PATIENT_NUMBER, event.patient_id, "1", "1", "")
    if event.kind is Kind.REJECTED:
        alert = _add_object(
            root, _NODE_ID, event.peer or event.address, "2", "13", event.peer or event.address
        )
        _detail(alert, event.reason)
    if event.kind is Kind.DEPLOYED:
        alert = _add_object(root, _NODE_ID, event.subject, "2", "13", event.subject)
        _detail(alert, event.reason)
    if event.kind is Kind.ORDERED:
        alert = _add_object(root, _NODE_ID, event.peer, "2", "13", event.peer)
        _detail(alert, f"{event.asked}, because: {event.reason}")
    if event.kind is Kind.DROPPED:
        alert = _add_object(root, _NODE_ID, "audit", "2", "13", "audit trail")
        _detail(alert, f"{event.count} audit messages were dropped before this one")


def _add_object(
    root: ElementTree.Element, code: _Code, object_id: str, type_code: str, role: str, name: str
) -> ElementTree.Element:
    element = _add(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=object_id,
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )
    _add_code(element, "ParticipantObjectIDTypeCode", code)
    # The schema asks for a name or a query; a patient is known by the ID alone here.
    _add(element, "ParticipantObjectName").text = _text(name)
    return element


def _detail(element: ElementTree.Element, text: str) -> None:
    """Add the Alert Description (A.5.3.11); values are base 64 (A.5.2)."""
    value = base64.b64encode(_text(text).encode()).decode("ascii")
    _add(element, "ParticipantObjectDetail", type="Alert Description", value=value)


def _add_code(parent: ElementTree.Element, name: str, code: _Code) -> None:
    value, scheme, meaning = code
    _add(
        parent,
        name,
        **{"csd-code": value, "codeSystemName": scheme, "originalText": meaning},
    )


def _add(parent: ElementTree.Element, name: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, name, {k: _text(v) for k, v in attributes.items()})


def _text(value: str) -> str:
    return _NOT_XML.sub("?", value)


def _is_ip(address: str) -> bool:
    try:
        ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return True
