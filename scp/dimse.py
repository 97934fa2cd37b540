"""DIMSE command sets: group 0000, implicit VR little endian (PS3.7 6.3 and 9.3, 10.3, E).

Only what a storage node is asked and answers. The codec is ours because it runs for every instance:
a command set is a dozen elements, of which six matter.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from limen.uids import is_uid

__all__ = [
    "C_CANCEL_RQ",
    "C_ECHO_RQ",
    "C_STORE_RQ",
    "N_ACTION_RQ",
    "N_EVENT_REPORT_RQ",
    "N_EVENT_REPORT_RSP",
    "RESPONSE",
    "Answer",
    "Command",
    "NotACommand",
    "event_report",
]

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_EVENT_REPORT_RSP, N_ACTION_RQ = 0x0100, 0x8100, 0x0130
RESPONSE = 0x8000
NO_DATA_SET = 0x0101

_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_COMMENT_LENGTH = 64  # VR LO

# Elements of group 0000 (PS3.7 E.1).
_GROUP_LENGTH, _AFFECTED_CLASS, _REQUESTED_CLASS, _FIELD = 0x0000, 0x0002, 0x0003, 0x0100
_MESSAGE_ID, _RESPONDED_ID, _DATA_SET_TYPE, _STATUS = 0x0110, 0x0120, 0x0800, 0x0900
_COMMENT, _AFFECTED_INSTANCE, _REQUESTED_INSTANCE = 0x0902, 0x1000, 0x1001
_EVENT_TYPE, _ACTION_TYPE = 0x1002, 0x1008


class NotACommand(Exception):
    """The bytes are no command set that can be answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and, unless it is Success, a comment for people (PS3.7 C)."""

    status: int
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A received command set.

    Attributes
    ----------
    field
        Command Field (0000,0100).
    message_id
        Message ID of a request; of a response, Message ID Being Responded To.
    sop_class_uid, sop_uid
        Affected, or Requested, SOP Class and Instance UID; empty when absent.
    has_data_set
        Whether a data set follows.
    status
        Of a response.
    action, event
        Action Type ID of N-ACTION, Event Type ID of N-EVENT-REPORT.
    """

    field: int
    message_id: int
    sop_class_uid: str
    sop_uid: str
    has_data_set: bool
    status: int | None
    action: int | None
    event: int | None = None

    @classmethod
    def parse(cls, data: bytes) -> Command:
        """Read an encoded command set.

        Raises
        ------
        NotACommand
            It is cut off, of another group, or lacks command field, message id or data set type.
        """
        elements: dict[int, bytes] = {}
        at, end = 0, len(data)
        while at < end:
            if end - at < 8:
                raise NotACommand("the command set is cut off")
            group, element, length = _ELEMENT.unpack_from(data, at)
            at += 8
            if group or length > end - at:
                raise NotACommand("the command set holds something else")
            elements[element] = data[at : at + length]
            at += length
        field, kind = _number(elements, _FIELD), _number(elements, _DATA_SET_TYPE)
        id_element = _RESPONDED_ID if field is not None and field & RESPONSE else _MESSAGE_ID
        if field == C_CANCEL_RQ:
            id_element = _RESPONDED_ID
        message_id = _number(elements, id_element)
        if field is None or kind is None or message_id is None:
            raise NotACommand("command field, message id or data set type is missing")
        return cls(
            field,
            message_id,
            _uid(elements, _AFFECTED_CLASS, _REQUESTED_CLASS),
            _uid(elements, _AFFECTED_INSTANCE, _REQUESTED_INSTANCE),
            kind != NO_DATA_SET,
            _number(elements, _STATUS),
            _number(elements, _ACTION_TYPE),
            _number(elements, _EVENT_TYPE),
        )

    def answered(self, answer: Answer) -> bytes:
        """Return the encoded response to this request, without a data set."""
        elements = [(_FIELD, _US.pack(self.field | RESPONSE)), *self._named(answer)]
        if self.action is not None:
            elements.append((_ACTION_TYPE, _US.pack(self.action)))
        if self.event is not None:
            elements.append((_EVENT_TYPE, _US.pack(self.event)))
        return _encode(elements)

    def _named(self, answer: Answer) -> list[tuple[int, bytes]]:
        elements = [
            (_RESPONDED_ID, _US.pack(self.message_id)),
            (_DATA_SET_TYPE, _US.pack(NO_DATA_SET)),
            (_STATUS, _US.pack(answer.status)),
        ]
        if is_uid(self.sop_class_uid):
            elements.append((_AFFECTED_CLASS, _even(self.sop_class_uid.encode("ascii"), b"\0")))
        if is_uid(self.sop_uid):
            elements.append((_AFFECTED_INSTANCE, _even(self.sop_uid.encode("ascii"), b"\0")))
        if answer.comment:
            comment = answer.comment[:_COMMENT_LENGTH].encode("ascii", "replace")
            elements.append((_COMMENT, _even(comment, b" ")))
        return elements


def event_report(message_id: int, sop_class_uid: str, sop_uid: str, event_type: int) -> bytes:
    """Return an encoded N-EVENT-REPORT-RQ (PS3.7 10.3.1); its data set follows."""
    return _encode(
        [
            (_AFFECTED_CLASS, _even(sop_class_uid.encode("ascii"), b"\0")),
            (_FIELD, _US.pack(N_EVENT_REPORT_RQ)),
            (_MESSAGE_ID, _US.pack(message_id)),
            (_DATA_SET_TYPE, _US.pack(1)),
            (_AFFECTED_INSTANCE, _even(sop_uid.encode("ascii"), b"\0")),
            (_EVENT_TYPE, _US.pack(event_type)),
        ]
    )


def _encode(elements: list[tuple[int, bytes]]) -> bytes:
    body = b"".join(
        _ELEMENT.pack(0, element, len(value)) + value for element, value in sorted(elements)
    )
    return _ELEMENT.pack(0, _GROUP_LENGTH, 4) + struct.pack("<I", len(body)) + body


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element)
    if value is None or len(value) != 2:
        return None
    return int.from_bytes(value, "little")


def _uid(elements: dict[int, bytes], *names: int) -> str:
    """Return the first of these elements that is there; what cannot be a UID stays none."""
    for name in names:
        if name in elements:
            value = elements[name]
            return value.decode("ascii").strip("\0 ")[:65] if value.isascii() else "(not ASCII)"
    return ""


def _even(value: bytes, pad: bytes) -> bytes:
    return value + pad if len(value) % 2 else value
