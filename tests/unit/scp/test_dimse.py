"""scp.dimse: the codec of command sets against pynetdicom's."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dimse_messages import C_ECHO_RQ as EchoRequest
from pynetdicom.dimse_messages import C_STORE_RQ as StoreRequest
from pynetdicom.dimse_messages import C_STORE_RSP as StoreResponse
from pynetdicom.dimse_messages import N_ACTION_RQ as ActionRequest
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ as EventRequest
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION
from pynetdicom.dsutils import decode, encode

from scp.dimse import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_EVENT_REPORT_RSP,
    Answer,
    Command,
    NotACommand,
    event_report,
)

CT = "1.2.840.10008.5.1.4.1.1.2"


def encoded(message: object, primitive: object) -> bytes:
    message.primitive_to_message(primitive)  # type: ignore[attr-defined]
    return encode(message.command_set, True, True) or b""  # type: ignore[attr-defined]


def store_request() -> C_STORE:
    request = C_STORE()
    request.MessageID, request.Priority = 7, 1
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CT, "1.2.3"
    request.MoveOriginatorApplicationEntityTitle = "PACS"
    request.MoveOriginatorMessageID = 99
    request.DataSet = BytesIO(b"x")
    return request


def test_a_store_request_with_priority_and_move_originator_is_read() -> None:
    command = Command.parse(encoded(StoreRequest(), store_request()))
    assert command == Command(C_STORE_RQ, 7, CT, "1.2.3", True, None, None)


def test_an_echo_request_has_no_data_set() -> None:
    request = C_ECHO()
    request.MessageID = 65535
    request.AffectedSOPClassUID = "1.2.840.10008.1.1"
    command = Command.parse(encoded(EchoRequest(), request))
    assert (command.field, command.message_id, command.has_data_set) == (C_ECHO_RQ, 65535, False)


def test_an_action_request_names_the_requested_instance() -> None:
    request = N_ACTION()
    request.MessageID, request.ActionTypeID = 3, 1
    request.RequestedSOPClassUID = "1.2.840.10008.1.20.1"
    request.RequestedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
    request.ActionInformation = BytesIO(b"x")
    command = Command.parse(encoded(ActionRequest(), request))
    assert command.field == N_ACTION_RQ
    assert (command.sop_uid, command.action) == ("1.2.840.10008.1.20.1.1", 1)


@pytest.mark.parametrize("comment", ["", "even", "odd", "x" * 100, "Ä"])
def test_a_response_is_what_pynetdicom_reads(comment: str) -> None:
    request = Command.parse(encoded(StoreRequest(), store_request()))
    raw = request.answered(Answer(0xA700, comment))
    response = StoreResponse()
    response.command_set = decode(BytesIO(raw), True, True)
    primitive = response.message_to_primitive()
    assert (primitive.MessageIDBeingRespondedTo, primitive.Status) == (7, 0xA700)
    assert (primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID) == (CT, "1.2.3")
    assert len(raw) == 12 + response.command_set.CommandGroupLength
    shown = decode(BytesIO(raw), True, True).get("ErrorComment", "")
    assert shown == comment[:64].replace("Ä", "?")


def test_a_report_is_what_pynetdicom_reads() -> None:
    message = EventRequest()
    message.command_set = decode(
        BytesIO(event_report(5, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1", 2)), True, True
    )
    message.data_set = BytesIO(b"x")
    primitive = message.message_to_primitive()
    assert (primitive.MessageID, primitive.EventTypeID) == (5, 2)
    assert primitive.AffectedSOPInstanceUID == "1.2.840.10008.1.20.1.1"


def command(**elements: object) -> bytes:
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return encode(ds, True, True) or b""


WHOLE = {"CommandField": 1, "MessageID": 1, "CommandDataSetType": 0x0101}


@pytest.mark.parametrize("missing", list(WHOLE))
def test_without_field_id_or_type_it_is_no_command(missing: str) -> None:
    with pytest.raises(NotACommand):
        Command.parse(command(**{k: v for k, v in WHOLE.items() if k != missing}))


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\x10\xff\xff\xff\xff", b"\x08\0\x16\0\0\0\0\0"])
def test_what_is_cut_off_or_of_another_group_is_no_command(tail: bytes) -> None:
    with pytest.raises(NotACommand):
        Command.parse(command(**WHOLE) + tail)


def test_a_cancel_and_a_response_name_the_message_they_answer() -> None:
    for field in (C_CANCEL_RQ, N_EVENT_REPORT_RSP):
        body = command(
            CommandField=field, MessageIDBeingRespondedTo=8, CommandDataSetType=0x0101, Status=0
        )
        assert Command.parse(body).message_id == 8


def test_a_uid_that_is_too_long_or_not_ascii_comes_out_as_no_uid() -> None:
    raw = struct.pack("<HHI", 0, 0x1000, 70) + b"1" * 70
    assert len(Command.parse(command(**WHOLE) + raw).sop_uid) == 65
    raw = struct.pack("<HHI", 0, 0x1000, 4) + "1.Ä".encode()
    assert Command.parse(command(**WHOLE) + raw).sop_uid == "(not ASCII)"


@given(st.binary(max_size=200))
def test_whatever_the_bytes_they_are_a_command_or_not(data: bytes) -> None:
    try:
        Command.parse(data)
    except NotACommand:
        return
    assert len(data) >= 26
