"""The rules of an audit message, in our own words, from the schema in DICOM PS3.15 A.5.1.

The schema itself is NEMA's text and not copied here. What it asks for is: which elements are
within which and in which order, how many, which attributes they have, and the form of each.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from xml.etree import ElementTree

__all__ = ["faults_of", "parse"]

_Check = Callable[[str], bool]


def _any(_: str) -> bool:
    return True


def _one_of(*values: str) -> _Check:
    return lambda text: text in values


def _moment(text: str) -> bool:
    return bool(re.search(r"(Z|[+-]\d\d:\d\d)$", text)) and bool(datetime.fromisoformat(text))


def _binary(text: str) -> bool:
    return base64.b64encode(base64.b64decode(text, validate=True)).decode() == text


_BOOLEAN = _one_of("true", "false", "0", "1")
_CODE = {"csd-code": _any, "codeSystemName": _any, "originalText": _any, "displayName?": _any}

# name -> (its attributes, "?" for those that may be absent; its children in order with "?", "*"
# or "+"; whether it holds text)
_RULES: dict[str, tuple[dict[str, _Check], tuple[str, ...], bool]] = {
    "AuditMessage": (
        {},
        (
            "EventIdentification",
            "ActiveParticipant+",
            "AuditSourceIdentification",
            "ParticipantObjectIdentification*",
        ),
        False,
    ),
    "EventIdentification": (
        {
            "EventActionCode?": _one_of(*"CRUDE"),
            "EventDateTime": _moment,
            "EventOutcomeIndicator": _one_of("0", "4", "8", "12"),
        },
        ("EventID", "EventTypeCode*", "EventOutcomeDescription?"),
        False,
    ),
    "EventID": (_CODE, (), False),
    "EventTypeCode": (_CODE, (), False),
    "EventOutcomeDescription": ({}, (), True),
    "ActiveParticipant": (
        {
            "UserID": _any,
            "AlternativeUserID?": _any,
            "UserName?": _any,
            "UserIsRequestor": _BOOLEAN,
            "NetworkAccessPointID?": _any,
            "NetworkAccessPointTypeCode?": _one_of(*"12345"),
        },
        ("RoleIDCode*", "MediaIdentifier?"),
        False,
    ),
    "RoleIDCode": (_CODE, (), False),
    "MediaIdentifier": ({}, ("MediaType",), False),
    "MediaType": (_CODE, (), False),
    "AuditSourceIdentification": (
        {"AuditEnterpriseSiteID?": _any, "AuditSourceID": _any},
        ("AuditSourceTypeCode*",),
        False,
    ),
    "AuditSourceTypeCode": ({"csd-code": _one_of(*"123456789")}, (), False),
    "ParticipantObjectIdentification": (
        {
            "ParticipantObjectID": _any,
            "ParticipantObjectTypeCode?": _one_of(*"1234"),
            "ParticipantObjectTypeCodeRole?": _one_of(*map(str, range(1, 27))),
            "ParticipantObjectDataLifeCycle?": _one_of(*map(str, range(1, 16))),
            "ParticipantObjectSensitivity?": _any,
        },
        (
            "ParticipantObjectIDTypeCode",
            "ParticipantObjectName",
            "ParticipantObjectDetail*",
            "ParticipantObjectDescription*",
        ),
        False,
    ),
    "ParticipantObjectIDTypeCode": (_CODE, (), False),
    "ParticipantObjectName": ({}, (), True),
    "ParticipantObjectDetail": ({"type": _any, "value": _binary}, (), False),
    "ParticipantObjectDescription": ({}, ("Accession*", "SOPClass*"), False),
    "Accession": ({"Number": _any}, (), False),
    "SOPClass": ({"UID?": _any, "NumberOfInstances": str.isdecimal}, (), False),
}


def parse(body: bytes) -> ElementTree.Element:
    """Return a message; it is XML, in UTF-8, and nothing else."""
    return ElementTree.fromstring(body.decode("utf-8"))


def faults_of(root: ElementTree.Element) -> list[str]:
    """Return where a message breaks a rule."""
    if root.tag != "AuditMessage":
        return [f"the root is {root.tag}"]
    return [fault for element in root.iter() for fault in _faults_of_one(element)]


def _faults_of_one(element: ElementTree.Element) -> list[str]:
    if element.tag not in _RULES:
        return [f"{element.tag} is no element of the schema"]
    attributes, children, holds_text = _RULES[element.tag]
    faults = []
    known = {name.rstrip("?"): check for name, check in attributes.items()}
    required = {name for name in attributes if not name.endswith("?")}
    faults += [f"{element.tag}: {name} is missing" for name in required - set(element.attrib)]
    for name, value in element.attrib.items():
        if name not in known:
            faults.append(f"{element.tag}: {name} is no attribute of it")
        elif not known[name](value):
            faults.append(f"{element.tag}: {name} is {value!r}")
    order = "".join(
        f"({re.escape(c.rstrip('?*+'))} ){c[-1] if c[-1] in '?*+' else ''}" for c in children
    )
    if not re.fullmatch(order, "".join(f"{child.tag} " for child in element)):
        faults.append(f"{element.tag} holds {[child.tag for child in element]}")
    if not holds_text and (element.text or "").strip():
        faults.append(f"{element.tag} holds text")
    return faults
