"""limen.scu: storage commitment as SCU; C-STORE and C-ECHO are tested with ``limen send``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from limen.dimse import Kind
from limen.instance import CommitmentReport
from limen.scu import COMMITMENT, Peer, Requestor

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
KEPT, LOST = "1.2.3.1", "1.2.3.2"


@contextmanager
def archive(
    status: int = 0,
    *,
    reports: bool = True,
    offers: bool = True,
    acknowledged: list[int | None] | None = None,
) -> Iterator[Peer]:
    """A PACS that vouches for KEPT, and reports on the association that asked."""
    acknowledged = [] if acknowledged is None else acknowledged
    ae = AE(ae_title="PACS")
    ae.add_supported_context(COMMITMENT if offers else CT)
    threads: list[threading.Thread] = []

    def asked(event: evt.Event) -> tuple[int, None]:
        answer = Dataset()
        answer.TransactionUID = event.action_information.TransactionUID
        uids = [i.ReferencedSOPInstanceUID for i in event.action_information.ReferencedSOPSequence]
        answer.ReferencedSOPSequence = [item(u) for u in uids if u == KEPT]
        answer.FailedSOPSequence = [item(u, 0x0112) for u in uids if u != KEPT]

        def say() -> None:
            status, _ = event.assoc.send_n_event_report(
                answer, 2, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            acknowledged.append(status.get("Status"))

        if reports:
            thread = threading.Thread(target=say)
            threads.append(thread)
            thread.start()
        return status, None

    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, asked)]
    )
    try:
        yield Peer("PACS", "127.0.0.1", server.server_address[1])
    finally:
        server.shutdown()
        for thread in threads:
            thread.join()


def item(uid: str, reason: int | None = None) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID, ds.ReferencedSOPInstanceUID = CT, uid
    if reason is not None:
        ds.FailureReason = reason
    return ds


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_report_on_the_same_association_is_read_and_acknowledged(syntax: str) -> None:
    transaction = generate_uid()
    with archive() as peer, Requestor(peer, "LIMEN", [(COMMITMENT, syntax)], 5) as requestor:
        answer = requestor.ask_commitment(transaction, [(CT, KEPT), (CT, LOST)])
        assert (answer.status, answer.kind) == ("0x0000", Kind.SUCCESS)
        report = requestor.report(5)
    assert report == CommitmentReport(transaction, (KEPT,), ((LOST, 0x0112),))


def test_a_report_is_acknowledged_before_the_association_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send_msg, busy = DIMSEServiceProvider.send_msg, threading.Event()

    def later(self: DIMSEServiceProvider, primitive: object, context_id: int) -> None:
        if isinstance(primitive, N_EVENT_REPORT) and self.assoc.is_requestor:
            busy.wait(0.5)  # as on a machine that does much else
        send_msg(self, primitive, context_id)  # type: ignore[arg-type]

    monkeypatch.setattr(DIMSEServiceProvider, "send_msg", later)
    acknowledged: list[int | None] = []
    with (
        archive(acknowledged=acknowledged) as peer,
        Requestor(peer, "LIMEN", [(COMMITMENT, IMPLICIT)], 5) as requestor,
    ):
        requestor.ask_commitment(generate_uid(), [(CT, KEPT)])
        assert requestor.report(5)
    assert acknowledged == [0x0000]


def test_a_refused_request_says_so() -> None:
    with (
        archive(0x0124) as peer,
        Requestor(peer, "LIMEN", [(COMMITMENT, IMPLICIT)], 5) as requestor,
    ):
        answer = requestor.ask_commitment(generate_uid(), [(CT, KEPT)])
    assert str(answer) == "0x0124, not authorised"
    assert answer.kind is Kind.PERMANENT


def test_no_report_in_time_is_none() -> None:
    with (
        archive(reports=False) as peer,
        Requestor(peer, "LIMEN", [(COMMITMENT, IMPLICIT)], 5) as requestor,
    ):
        assert requestor.ask_commitment(generate_uid(), [(CT, KEPT)]).stored
        assert requestor.report(0.1) is None


def test_a_peer_without_storage_commitment_is_not_asked() -> None:
    with (
        archive(offers=False) as peer,
        Requestor(peer, "LIMEN", [(COMMITMENT, IMPLICIT), (CT, IMPLICIT)], 5) as requestor,
    ):
        assert requestor.accepted(CT) == {IMPLICIT}
        assert not requestor.accepted(COMMITMENT)
        answer = requestor.ask_commitment(generate_uid(), [(CT, KEPT)])
    assert answer.status == "presentation context refused"
