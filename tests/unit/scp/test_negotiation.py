"""scp.negotiation: what is agreed on, read back with pynetdicom's codec."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.pdu import A_ASSOCIATE_AC

from limen.config import Scp
from scp.negotiation import Agreement, Request, Unsupported, negotiate
from scp.pdu import Malformed
from scp.sop_classes import COMMITMENT, STORAGE, VERIFICATION, served_by
from tests.unit.scp.test_reference import CT, ECHO, EXPLICIT, IMPLICIT, item, request

SERVED, KINDS = served_by(Scp(private_sop_classes=("1.3.6.1.4.1.9999.1",)))
PRIVATE = "1.3.6.1.4.1.9999.1"


def answer(asked: Request, max_contexts: int = 128) -> Agreement:
    return negotiate(
        asked,
        SERVED,
        KINDS,
        max_contexts=max_contexts,
        max_pdu_bytes=131072,
        implementation=("1.2.3", "LIMEN_TEST"),
    )


def agreed(pdu: bytes, max_contexts: int = 128) -> tuple[Agreement, A_ASSOCIATE_AC]:
    agreement = answer(Request.parse(pdu[6:]), max_contexts)
    accept = A_ASSOCIATE_AC()
    accept.decode(agreement.answer)
    assert accept.encode() == agreement.answer
    return agreement, accept


def test_titles_and_application_context_come_back() -> None:
    _, accept = agreed(request())
    assert accept.called_ae_title.strip() == "LIMEN"
    assert accept.calling_ae_title.strip() == "CT1"
    assert accept.application_context_name == "1.2.840.10008.3.1.1.1"
    assert accept.user_information.implementation_class_uid == "1.2.3"
    assert accept.user_information.implementation_version_name == "LIMEN_TEST"


def test_the_first_transfer_syntax_that_we_take_is_taken() -> None:
    jpeg, deflated = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1.99"
    agreement, _ = agreed(request([(1, CT, [deflated, jpeg, EXPLICIT])]))
    assert agreement.contexts[1].transfer_syntax == jpeg


def test_what_is_refused_says_whether_it_is_the_class_or_the_syntax() -> None:
    contexts = [(1, "1.2.3", [EXPLICIT]), (3, CT, ["1.2.3"]), (5, CT, []), (7, CT, [EXPLICIT])]
    agreement, accept = agreed(request(contexts))
    assert [c.result for c in accept.presentation_context] == [3, 4, 4, 0]
    assert agreement.refused == ("1.2.3", CT)
    assert list(agreement.contexts) == [7]


def test_contexts_over_the_cap_are_refused() -> None:
    contexts = [(n, CT, [EXPLICIT]) for n in (1, 3, 5)]
    agreement, accept = agreed(request(contexts), max_contexts=2)
    assert [c.result for c in accept.presentation_context] == [0, 0, 2]
    assert list(agreement.contexts) == [1, 3]


def test_more_contexts_than_there_are_ids_are_malformed() -> None:
    contexts = [(2 * n % 256 + 1, CT, [EXPLICIT]) for n in range(129)]
    with pytest.raises(Malformed, match="contexts"):
        Request.parse(request(contexts)[6:])


@pytest.mark.parametrize(
    "more", [item(0x99, b"") * 9000, item(0x56, b"\0\0") * 9000], ids=["unknown", "extended"]
)
def test_a_request_with_more_items_than_any_has_is_malformed(more: bytes) -> None:
    with pytest.raises(Malformed, match="too many items"):
        Request.parse(request(more=more)[6:])


def test_128_contexts_with_every_transfer_syntax_are_agreed_on() -> None:
    syntaxes = sorted(SERVED[CT])
    contexts = [(2 * n + 1, uid, syntaxes) for n, uid in enumerate(sorted(STORAGE)[:128])]
    agreement, accept = agreed(request(contexts))
    assert len(agreement.contexts) == len(accept.presentation_context) == 128


def test_asynchronous_operations_are_answered_with_one_each_only_when_asked() -> None:
    _, accept = agreed(request())
    assert accept.user_information.async_ops_window is None
    _, accept = agreed(request(more=item(0x53, struct.pack(">HH", 0, 0))))
    window = accept.user_information.async_ops_window
    assert (
        window.maximum_number_operations_invoked,
        window.maximum_number_operations_performed,
    ) == (1, 1)


@pytest.mark.parametrize(("scu", "scp"), [(1, 0), (1, 1), (0, 1)])
def test_a_requestor_of_storage_may_be_user_and_never_provider(scu: int, scp: int) -> None:
    role = item(0x54, struct.pack(">H", len(CT)) + CT.encode() + bytes([scu, scp]))
    _, accept = agreed(request(more=role))
    (said,) = accept.user_information.role_selection.values()
    assert (said.uid, said.scu, said.scp) == (CT, bool(scu), False)


@pytest.mark.parametrize(("scu", "scp"), [(1, 0), (1, 1), (0, 1)])
def test_a_requestor_of_storage_commitment_may_report_to_us(scu: int, scp: int) -> None:
    uid = COMMITMENT.encode()
    role = item(0x54, struct.pack(">H", len(uid)) + uid + bytes([scu, scp]))
    _, accept = agreed(request(more=role))
    (said,) = accept.user_information.role_selection.values()
    assert (said.uid, said.scu, said.scp) == (COMMITMENT, bool(scu), bool(scp))


def test_extended_negotiation_of_storage_says_that_everything_is_kept() -> None:
    def wanted(uid: str) -> bytes:
        return item(0x56, struct.pack(">H", len(uid)) + uid.encode() + bytes([2, 0, 3, 0, 1, 0]))

    _, accept = agreed(request(more=wanted(CT) + wanted(ECHO) + wanted("1.2.3")))
    (said,) = accept.user_information.ext_neg
    assert (said.uid, said.app_info) == (CT, bytes([2, 0, 3, 0, 0, 0]))


def test_a_user_identity_is_noted_by_its_kind_and_not_answered() -> None:
    secret = b"\x02\x01" + struct.pack(">H", 4) + b"jane" + struct.pack(">H", 6) + b"secret"
    asked = Request.parse(request(more=item(0x58, secret))[6:])
    assert asked.identity_type == 2
    assert "secret" not in repr(asked)
    _, accept = agreed(request(more=item(0x58, secret)))
    assert accept.user_information.user_identity is None


def test_private_classes_are_served_when_the_settings_say_so() -> None:
    agreement, _ = agreed(request([(1, PRIVATE, [EXPLICIT])]))
    assert list(agreement.contexts) == [1]
    assert PRIVATE not in served_by(Scp())[0]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (0x20, b"\x01\0"),
        (0x20, b"\x01\0\0\0\x30\0\0\xff"),
        (0x50, b"\x51\0\0\x09"),
        (0x50, item(0x54, b"\0\xff1.2")),
        (0x50, item(0x54, b"\0\x031.2\x01")),
        (0x50, item(0x56, b"\0")),
    ],
)
def test_items_that_break_their_lengths_are_malformed(kind: int, body: bytes) -> None:
    with pytest.raises(Malformed):
        Request.parse(request()[6:] + item(kind, body))


@given(st.data())
def test_a_mutated_request_is_answered_or_refused(data: st.DataObject) -> None:
    body = bytearray(request(more=item(0x53, bytes(4)) + item(0x58, bytes(6)))[6:])
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    for variant in (bytes(body), bytes(body[:cut])):
        try:
            asked = Request.parse(variant)
        except (Malformed, Unsupported):
            continue
        agreement = answer(asked)
        assert agreement.answer[:6] == b"\x02\0" + struct.pack(">I", len(agreement.answer) - 6)
        assert set(agreement.contexts) <= {p.context_id for p in asked.proposals}


# -- the table of SOP classes against the libraries' -----------------------------------------------


def test_every_storage_class_that_the_libraries_know_is_served() -> None:
    theirs = {str(c.abstract_syntax) for c in AllStoragePresentationContexts}
    named = {
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" in name and "Commitment" not in name
    }
    no_study = {
        uid
        for uid in named - theirs
        if uid == "1.2.840.10008.1.3.10"  # media directory, PS3.3 F
        or "Protocol" in UID_dictionary[uid][0]  # PS3.4 GG, non-patient objects
        or "Implant" in UID_dictionary[uid][0]
        or UID_dictionary[uid][0].split()[0] in {"Inventory", "Hanging", "Color"}
    }
    assert (theirs | named) - no_study == STORAGE
    assert {VERIFICATION, COMMITMENT} <= set(served_by(Scp())[0])
    assert {IMPLICIT, EXPLICIT} == set(served_by(Scp())[0][VERIFICATION])
