"""Storage commitment as SCU, the receiver's side: a PACS reports to us what it keeps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from limen.journal import Delivery, SentObject
from limen.states import ObjectState, WorkState
from scp.commitment_messages import Report, report_of
from tests.support.journals import KEY, claimed, receive
from tests.support.pacs import report_of_pairs, tell
from tests.support.samples import SUMMARY
from tests.support.wire import CT, EXPLICIT, IMPLICIT
from tests.unit.scp.conftest import Listening

DELIVERY = f"{KEY}-1-prediction-main-pacs"
TRANSACTION = "1.2.3.99"
SR, SEG = "1.2.3.1", "1.2.3.2"


@pytest.fixture(params=[1, 2])
def asking(listen: Callable[..., Listening], request: pytest.FixtureRequest) -> Listening:
    """A node whose delivery waits for the word of a PACS."""
    listening = listen(processes=request.param)
    journal = listening.receiver.journal
    receive(journal)
    assert journal.work.commit(claimed(journal), "a", SUMMARY, ["main-pacs"])
    delivery = journal.work.claim(Delivery, DELIVERY, "a", 30)
    assert delivery is not None
    objects = [SentObject(uid, CT, "sr", ObjectState.SENT) for uid in (SR, SEG)]
    journal.objects.note(DELIVERY, objects)
    journal.objects.ask(DELIVERY, TRANSACTION, [SR, SEG])
    assert journal.work.delivered(delivery, "a", WorkState.SENT, wait_s=3600)
    return listening


def states(listening: Listening) -> dict[str, str]:
    found = listening.receiver.journal.objects.of(DELIVERY)
    return {one.sop_uid: one.state.value for one in found}


def said(transaction: str = TRANSACTION, keeps: str = SR) -> Dataset:
    pairs = [(CT, SR), (CT, SEG)]
    return report_of_pairs(transaction, pairs, lambda uid: uid == keeps)


def test_a_report_on_an_association_of_its_own_is_written_down(asking: Listening) -> None:
    assert tell(asking.peer, said()) == 0x0000
    assert states(asking) == {SR: "committed", SEG: "lost"}
    journal = asking.receiver.journal
    assert journal.work.claim(Delivery, DELIVERY, "a", 30) is not None


def test_the_same_report_again_changes_nothing_and_is_success(asking: Listening) -> None:
    for _ in range(2):
        assert tell(asking.peer, said()) == 0x0000
    assert [o.attempts for o in asking.receiver.journal.objects.of(DELIVERY)] == [0, 1]


def test_a_report_that_nobody_asked_for_is_refused(asking: Listening) -> None:
    assert tell(asking.peer, said("1.2.3.98")) == 0x0115
    assert states(asking) == {SR: "sent", SEG: "sent"}


def test_a_report_of_another_kind_is_refused(asking: Listening) -> None:
    assert tell(asking.peer, said(), event_type=3) == 0x0113


def test_a_report_that_lists_nothing_is_refused(asking: Listening) -> None:
    empty = Dataset()
    empty.TransactionUID = TRANSACTION
    assert tell(asking.peer, empty, event_type=1) == 0x0115


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_report_is_read_as_it_was_written(syntax: str) -> None:
    written = Report(TRANSACTION, ((CT, SR),), ((CT, SEG, 0x0213),))
    read = report_of(written.encode(syntax), syntax)
    assert read.transaction_uid == TRANSACTION
    assert read.kept == (SR,)
    assert read.failed == ((SEG, 0x0213),)
