"""Audit messages: the schema of PS3.15 A.5.1 and the tables of A.5.3."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limen.audit.event import FAILED, Event, Kind
from limen.audit.message import Source, to_xml
from limen.errors import Unreadable
from tests.support.audit_messages import faults_of, parse

AT = datetime(2026, 11, 29, 5, 6, 7, 89_000, tzinfo=UTC)
SOURCE = Source("limen", "St Example", "node1.example.org")
STUDY = {"study_uid": "1.2.3", "accession": "A7", "patient_id": "P1"}
EVENTS = {
    Kind.STARTED: {},
    Kind.STOPPED: {},
    Kind.RECEIVED: {"peer": "CT1", "address": "10.0.0.9", "instances": {"1.2.840.1": 3}, **STUDY},
    Kind.SENDING: {"peer": "PACS", "address": "pacs.example.org", **STUDY},
    Kind.SENT: {"peer": "PACS", "address": "10.0.0.8", "instances": {"1.2.840.2": 1}, **STUDY},
    Kind.EXPORTED: {"uri": "https://results.example.org", **STUDY},
    Kind.VIEWED: {"user": "ann", "address": "10.0.0.7", **STUDY},
    Kind.LOGGED_IN: {"user": "ann", "address": "10.0.0.7"},
    Kind.LOGGED_OUT: {"user": "ann", "address": "::1"},
    Kind.REJECTED: {"peer": "EVIL", "address": "10.0.0.6", "reason": "no peer", "outcome": FAILED},
    Kind.DEPLOYED: {"user": "ann", "subject": "heads 2.0", "reason": "5 % of studies"},
    Kind.ORDERED: {
        "user": "ann",
        "address": "10.0.0.7",
        "peer": "node1",
        "asked": "discard 0a-1-archive",
        "reason": "a phantom",
        **STUDY,
    },
    Kind.DROPPED: {"count": 7, "outcome": 4},
}
# PS3.15 A.5.3: EventID, EventActionCode, EventTypeCode, roles in order, codes of the objects
TABLE = {
    Kind.STARTED: ("110100", "E", "110120", ["110150"], []),
    Kind.STOPPED: ("110100", "E", "110121", ["110150"], []),
    Kind.RECEIVED: ("110104", "C", None, ["110153", "110152"], ["110180", "2"]),
    Kind.SENDING: ("110102", "E", None, ["110153", "110152"], ["110180", "2"]),
    Kind.SENT: ("110104", "C", None, ["110153", "110152"], ["110180", "2"]),
    Kind.EXPORTED: ("110106", "R", None, ["110153", "110154"], ["110180", "2"]),
    Kind.VIEWED: ("110103", "R", None, [], ["110180", "2"]),
    Kind.LOGGED_IN: ("110114", "E", "110122", ["110150"], []),
    Kind.LOGGED_OUT: ("110114", "E", "110123", ["110150"], []),
    Kind.REJECTED: ("110113", "E", "110126", [], ["110182"]),
    Kind.DEPLOYED: ("110113", "E", "110131", ["110150"], ["110182"]),
    Kind.ORDERED: ("110113", "E", "110132", [], ["110180", "2", "110182"]),
    Kind.DROPPED: ("110113", "E", "110134", [], ["110182"]),
}  # fmt: skip


def event(kind: Kind) -> Event:
    return replace(Event(kind, AT, "scp", 4711, ae_title="LIMEN"), **EVENTS[kind])


def codes(root: ElementTree.Element, path: str) -> list[str]:
    return [element.attrib["csd-code"] for element in root.findall(path)]


@pytest.mark.parametrize("kind", Kind)
def test_a_message_keeps_the_rules_of_the_schema(kind: Kind) -> None:
    assert faults_of(parse(to_xml(event(kind), SOURCE))) == []
    assert faults_of(parse(to_xml(event(kind), Source("limen", "", "h")))) == []


@pytest.mark.parametrize("kind", Kind)
def test_a_message_says_what_the_table_of_its_event_asks_for(kind: Kind) -> None:
    root = parse(to_xml(event(kind), SOURCE))
    event_id, action, event_type, roles, objects = TABLE[kind]
    assert codes(root, "EventIdentification/EventID") == [event_id]
    assert root[0].attrib["EventActionCode"] == action
    assert root[0].attrib["EventDateTime"] == "2026-11-29T05:06:07.089Z"
    assert codes(root, "EventIdentification/EventTypeCode") == ([event_type] if event_type else [])
    assert codes(root, "ActiveParticipant/RoleIDCode") == roles
    path = "ParticipantObjectIdentification/ParticipantObjectIDTypeCode"
    assert codes(root, path) == objects
    asking = [p.attrib["UserIsRequestor"] for p in root.findall("ActiveParticipant")]
    assert asking.count("true") <= 1
    if "study_uid" in EVENTS[kind]:
        study, patient, *_ = root.findall("ParticipantObjectIdentification")
        assert (study.attrib["ParticipantObjectID"], patient.attrib["ParticipantObjectID"]) == (
            "1.2.3",
            "P1",
        )
        assert asking.count("true") == (kind is not Kind.ORDERED)


def test_an_alert_says_why_in_base_64() -> None:
    detail = parse(to_xml(event(Kind.REJECTED), SOURCE)).find(".//ParticipantObjectDetail")
    assert detail is not None
    assert base64.b64decode(detail.attrib["value"]) == b"no peer"


def test_an_order_says_who_asked_for_what_and_why() -> None:
    root = parse(to_xml(event(Kind.ORDERED), SOURCE))
    process, person = root.findall("ActiveParticipant")
    assert process.attrib["UserName"] == "limen scp"
    assert person.attrib["UserName"] == "ann"
    assert person.attrib["NetworkAccessPointID"] == "10.0.0.7"
    detail = root.find(".//ParticipantObjectDetail")
    assert detail is not None
    said = base64.b64decode(detail.attrib["value"])
    assert said == b"discard 0a-1-archive, because: a phantom"


def test_a_broken_message_is_found() -> None:
    root = parse(to_xml(event(Kind.RECEIVED), SOURCE))
    root[0].attrib["EventOutcomeIndicator"] = "1"
    root.find("ParticipantObjectIdentification").attrib["Patient"] = "x"  # type: ignore[union-attr]
    root.append(ElementTree.Element("ActiveParticipant"))
    assert len(faults_of(root)) == 5


@given(st.text(), st.text())
def test_whatever_a_peer_calls_itself_the_message_is_whole(peer: str, patient_id: str) -> None:
    told = replace(event(Kind.RECEIVED), peer=peer, patient_id=patient_id)
    body = to_xml(told, SOURCE)
    assert faults_of(parse(body)) == []
    assert not re.search(rb"[\x00-\x1f]", body)  # one line: rsyslog would rewrite its end


@pytest.mark.parametrize("kind", Kind)
def test_a_note_is_read_as_it_was_written(kind: Kind) -> None:
    assert Event.from_json(event(kind).to_json()) == event(kind)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kind": "sold", "at": "2026-11-29T05:06:07+00:00", "process": "scp"}',
        b'{"kind": "viewed", "at": "yesterday", "process": "web"}',
        b'{"kind": "viewed", "at": "2026-11-29T05:06:07+00:00", "process": "web", "pid": "x"}',
        b'{"kind": "viewed", "at": "2026-11-29T05:06:07+00:00", "process": "web", "more": 1}',
    ],
)
def test_what_is_no_note_is_refused(body: bytes) -> None:
    with pytest.raises(Unreadable):
        Event.from_json(body)
