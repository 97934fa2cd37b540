"""What pynetdicom's own tests of an acceptor are made of, replayed on ours.

Its encoded PDUs and command sets (``pynetdicom.tests.encoded_*``) are read by both. Its cases of
``test_presentation.TestNegotiateAsAcceptor`` and the role selection table are asked of both. The
cells of ``test_fsm`` are in ``tests.attacks.test_states``, the services in ``test_reference``.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import build_context
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.presentation import negotiate_as_acceptor, negotiate_as_requestor
from pynetdicom.tests import encoded_dimse_msg, encoded_dimse_n_msg, encoded_pdu_items

from limen.config import Scp
from scp.dimse import Command
from scp.negotiation import Request
from scp.pdu import Malformed
from scp.sop_classes import COMMITMENT, served_by
from tests.unit.scp.test_negotiation import agreed
from tests.unit.scp.test_reference import (
    BIG_ENDIAN,
    CT,
    DEFLATED,
    ECHO,
    EXPLICIT,
    IMPLICIT,
    Context,
    item,
    request,
)

SERVED, _ = served_by(Scp())
ACCEPTING = [build_context(uid, sorted(SERVED[uid])) for uid in (CT, ECHO, COMMITMENT)]


def named(module: Any, *ends: str) -> dict[str, bytes]:
    """Return the encoded examples of a module whose name has one of these in it."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bytes) and any(end in name for end in ends)
    }


REQUESTS = named(encoded_pdu_items, "a_associate_rq")
COMMANDS = named(encoded_dimse_msg, "_cmd") | named(encoded_dimse_n_msg, "_cmd")


BLANK = {"a_associate_rq_called", "a_associate_rq_calling"}  # titles of spaces only
BARE = {"a_associate_rq_com_ext_neg"}  # no presentation context: PS3.8 9.3.2 wants one, ours too


@pytest.mark.parametrize("name", sorted(BLANK))
def test_a_request_with_a_blank_title_is_refused_by_both(name: str) -> None:
    with pytest.raises(ValueError, match="spaces"):
        A_ASSOCIATE_RQ().decode(REQUESTS[name])
    with pytest.raises(Malformed, match="title"):
        Request.parse(REQUESTS[name][6:])


@pytest.mark.parametrize("name", sorted(BARE))
def test_a_request_that_proposes_nothing_is_refused_by_ours(name: str) -> None:
    with pytest.raises(Malformed, match="no presentation context"):
        Request.parse(REQUESTS[name][6:])


@pytest.mark.parametrize("name", sorted(set(REQUESTS) - BLANK - BARE))
def test_an_encoded_request_is_read_as_pynetdicom_reads_it(name: str) -> None:
    theirs = A_ASSOCIATE_RQ()
    theirs.decode(REQUESTS[name])
    ours = Request.parse(REQUESTS[name][6:])
    assert ours.called == theirs.called_ae_title.strip()
    assert ours.calling == theirs.calling_ae_title.strip()
    assert [(p.context_id, p.abstract_syntax, p.transfer_syntaxes) for p in ours.proposals] == [
        (c.context_id, c.abstract_syntax, tuple(c.transfer_syntax))
        for c in theirs.presentation_context
    ]
    user = theirs.user_information
    assert ours.max_pdu_bytes == user.maximum_length
    assert ours.implementation_uid == user.implementation_class_uid
    assert ours.implementation_version == (user.implementation_version_name or "")
    assert ours.roles == {
        uid: (r.scu_role, r.scp_role) for uid, r in (user.role_selection or {}).items()
    }
    assert ours.extended == [e.sop_class_uid for e in user.ext_neg]
    assert ours.asynchronous == (user.async_ops_window is not None)
    identity = user.user_identity
    assert ours.identity_type == (identity.user_identity_type if identity else None)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_encoded_command_set_is_read_as_pynetdicom_reads_it(name: str) -> None:
    raw = COMMANDS[name][1:]  # behind the control header of its fragment
    theirs = decode(BytesIO(raw), True, True)
    ours = Command.parse(raw)
    assert ours.field == theirs.CommandField
    assert ours.message_id == theirs.get("MessageIDBeingRespondedTo", theirs.get("MessageID"))
    wanted = {
        "sop_class_uid": ("AffectedSOPClassUID", "RequestedSOPClassUID"),
        "sop_uid": ("AffectedSOPInstanceUID", "RequestedSOPInstanceUID"),
    }
    for attribute, keywords in wanted.items():
        uids = [str(theirs[k].value) for k in keywords if k in theirs]
        assert getattr(ours, attribute) == (uids[0] if uids else "")
    assert ours.has_data_set == (theirs.CommandDataSetType != 0x0101)
    assert ours.status == theirs.get("Status")
    assert ours.action == theirs.get("ActionTypeID")


# -- presentation contexts -------------------------------------------------------------------------


def answered(contexts: list[Context]) -> dict[int, tuple[int, str | None]]:
    """Return result and, where accepted, transfer syntax of each context, as ours answers."""
    agreement, accept = agreed(request(contexts))
    results = {c.context_id: c.result for c in accept.presentation_context}
    return {
        number: (result, agreement.contexts[number].transfer_syntax if not result else None)
        for number, result in results.items()
    }


def of_library(contexts: list[Context]) -> dict[int, tuple[int, str | None]]:
    """Return the same of pynetdicom."""
    asked = []
    for number, abstract, syntaxes in contexts:
        context = build_context(abstract, syntaxes)
        context.context_id = number
        asked.append(context)
    results, _ = negotiate_as_acceptor(asked, ACCEPTING)
    return {
        c.context_id: (c.result, None if c.result else str(c.transfer_syntax[0])) for c in results
    }


PRIVATE = "1.2.3.4"
CASES: dict[str, list[Context]] = {
    "dupe_abs_req": [(1, CT, [IMPLICIT]), (3, CT, [EXPLICIT]), (5, CT, [BIG_ENDIAN])],
    "one_req_no_acc": [(1, "1.2.840.10008.5.1.4.31", [IMPLICIT])],
    "dupe_abs_req_no_acc": [(1, PRIVATE, [IMPLICIT]), (3, PRIVATE, [EXPLICIT])],
    "one_req_one_acc_match": [(1, CT, [IMPLICIT])],
    "one_req_one_acc_accept_trans": [(1, CT, [EXPLICIT, BIG_ENDIAN])],
    "one_req_one_acc_accept_trans_diff": [(1, CT, [DEFLATED, BIG_ENDIAN, IMPLICIT])],
    "one_req_one_acc_reject_trans": [(1, CT, [BIG_ENDIAN, DEFLATED])],
    "one_req_one_acc_mismatch": [(1, PRIVATE, [BIG_ENDIAN])],
    "private_transfer_syntax": [(1, CT, ["1.2.3.4.5"])],
    "private_abstract_syntax": [(1, PRIVATE, [EXPLICIT])],
    "response_has_rejected": [(1, ECHO, [IMPLICIT]), (3, PRIVATE, [IMPLICIT])],
}


@pytest.mark.parametrize("name", CASES)
def test_contexts_are_answered_as_pynetdicom_answers_them(name: str) -> None:
    assert answered(CASES[name]) == of_library(CASES[name])


@settings(derandomize=True, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([CT, ECHO, COMMITMENT, PRIVATE]),
            st.lists(
                st.sampled_from([IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED, PRIVATE]),
                min_size=1,
                max_size=4,
                unique=True,
            ),
        ),
        min_size=1,
        max_size=128,
    )
)
def test_any_contexts_are_accepted_and_refused_as_pynetdicom_does(
    proposed: list[tuple[str, list[str]]],
) -> None:
    """Which syntax of several is taken differs on purpose: see ``test_reference``."""
    contexts = [(2 * n + 1, abstract, syntaxes) for n, (abstract, syntaxes) in enumerate(proposed)]
    ours, theirs = answered(contexts), of_library(contexts)
    assert {n: result for n, (result, _) in ours.items()} == {
        n: result for n, (result, _) in theirs.items()
    }
    for number, abstract, syntaxes in contexts:
        first = next((s for s in syntaxes if s in SERVED.get(abstract, ())), None)
        assert ours[number][1] == first


@pytest.mark.parametrize("scu", [False, True])
@pytest.mark.parametrize("scp", [False, True])
def test_a_requestor_of_pynetdicom_gets_no_other_role_than_that_of_the_user(
    scu: bool, scp: bool
) -> None:
    """The rows of its role selection table whose acceptor takes the role of the user only."""
    role = item(0x54, len(CT).to_bytes(2, "big") + CT.encode() + bytes([scu, scp]))
    _, accept = agreed(request([(1, CT, [EXPLICIT])], more=role))
    (reply,) = accept.user_information.role_selection.values()
    assert (reply.scu_role, reply.scp_role) == (scu, False)
    asked = build_context(CT, EXPLICIT)
    asked.context_id = 1
    asked.scu_role, asked.scp_role = scu, scp
    roles = {CT: (bool(reply.scu_role), bool(reply.scp_role))}
    (result,) = negotiate_as_requestor([asked], [_accepted()], roles)
    assert result.as_scp is False
    assert result.as_scu is scu


def _accepted() -> Any:
    context = build_context(CT, EXPLICIT)
    context.context_id, context.result = 1, 0
    return context
