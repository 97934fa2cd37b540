"""limen.journal.objects: how each object stands, whoever says so and whenever."""

from __future__ import annotations

import pytest

from limen.instance import CommitmentReport
from limen.journal import Delivery, Journal, SentObject
from limen.states import ObjectState, WorkState
from tests.support.journals import KEY, claimed, receive, state_of
from tests.support.samples import SUMMARY, Clock

PACS = f"{KEY}-1-prediction-main-pacs"
SR = SentObject("1.2.1", "1.2", "sr", ObjectState.SENT)
SEG = SentObject("1.2.2", "1.2", "seg", ObjectState.SENT)


@pytest.fixture
def delivery(journal: Journal) -> Delivery:
    """A delivery to a PACS, claimed."""
    receive(journal)
    assert journal.work.commit(claimed(journal), "a", SUMMARY, ("main-pacs", "django"))
    return claim(journal)


def claim(journal: Journal, key: str = PACS) -> Delivery:
    found = journal.work.claim(Delivery, key, "a", 30)
    assert found is not None
    return found


def states(journal: Journal) -> list[tuple[str, str, int]]:
    return [(o.state.value, o.reason, o.attempts) for o in journal.objects.of(PACS)]


def test_an_object_is_noted_and_noted_again(journal: Journal, delivery: Delivery) -> None:
    waiting = SentObject("1.2.1", "1.2", "sr", ObjectState.WAITING, "0xA700", 1)
    assert not journal.objects.knows(KEY, "main-pacs")
    journal.objects.note(delivery.key, [waiting, SEG])
    journal.objects.note(delivery.key, [SR])
    assert journal.objects.of(delivery.key) == [SEG, SR]
    assert journal.objects.knows(KEY, "main-pacs")
    assert not journal.objects.knows(KEY, "django")
    (row,) = [r for r in journal.status.study(KEY, 1).deliveries if r.key == PACS]
    assert row.objects == (SEG, SR)


def test_a_delivery_that_is_sent_is_due_when_the_report_comes(
    journal: Journal, delivery: Delivery, clock: Clock
) -> None:
    journal.objects.note(delivery.key, [SR, SEG])
    journal.objects.ask(delivery.key, "1.9", ["1.2.1", "1.2.2"])
    assert journal.work.delivered(delivery, "a", WorkState.SENT, wait_s=3600)
    assert state_of(journal, PACS) == "sent"
    clock.forward(1)
    assert journal.work.claim(Delivery, PACS, "a", 30) is None
    assert journal.objects.reported(CommitmentReport("1.9", ("1.2.1", "1.2.2"), ()))
    assert [w.key for w in journal.publishing.waiting("main-pacs")] == [PACS]
    assert journal.work.delivered(claim(journal), "a", WorkState.COMMITTED)
    assert state_of(journal, PACS) == "committed"
    assert {state for state, _, _ in states(journal)} == {"committed"}


def test_it_is_due_in_time_when_no_report_comes(
    journal: Journal, delivery: Delivery, clock: Clock
) -> None:
    journal.objects.note(delivery.key, [SR])
    journal.objects.ask(delivery.key, "1.9", ["1.2.1"])
    assert journal.work.delivered(delivery, "a", WorkState.SENT, wait_s=3600)
    clock.forward(3599)
    assert journal.publishing.waiting("main-pacs") == []
    clock.forward(2)
    assert [w.key for w in journal.publishing.due() if w.key == PACS] == [PACS]


def test_it_is_due_and_asked_again_when_its_pacs_was_away_and_is_back(
    journal: Journal, delivery: Delivery, clock: Clock
) -> None:
    journal.objects.note(delivery.key, [SR])
    journal.objects.ask(delivery.key, "1.9", ["1.2.1"])
    assert journal.work.delivered(delivery, "a", WorkState.SENT, wait_s=3600)
    job = f"{receive(journal, '1.2.99')}-1-prediction"
    assert journal.work.commit(claimed(journal, job), "a", SUMMARY, ("main-pacs",))
    other = claim(journal, f"{job}-main-pacs")
    assert journal.work.postpone_until_there(other, "a", 60, "away", probe_s=(1, 60))
    clock.forward(60)
    assert [w.key for w in journal.publishing.due() if w.key == PACS] == []
    assert journal.work.delivered(claim(journal, other.key), "a")
    assert [w.key for w in journal.publishing.due() if w.key == PACS] == [PACS]
    (waiting,) = journal.objects.of(PACS)
    assert (waiting.state, waiting.transaction_uid) == (ObjectState.SENT, "")
    assert journal.objects.reported(CommitmentReport("1.9", ("1.2.1",), ()))
    assert states(journal) == [("committed", "", 0)]


def test_a_report_that_came_before_the_end_is_not_missed(
    journal: Journal, delivery: Delivery
) -> None:
    journal.objects.note(delivery.key, [SR])
    journal.objects.ask(delivery.key, "1.9", ["1.2.1"])
    assert journal.objects.reported(CommitmentReport("1.9", ("1.2.1",), ()))
    assert journal.work.delivered(delivery, "a", WorkState.SENT, wait_s=3600)
    assert claim(journal).attempts == 2


def test_what_is_not_kept_is_lost_and_the_rest_is_committed(
    journal: Journal, delivery: Delivery
) -> None:
    journal.objects.note(delivery.key, [SR, SEG])
    journal.objects.ask(delivery.key, "1.9", ["1.2.1", "1.2.2"])
    assert journal.objects.reported(CommitmentReport("1.9", ("1.2.2",), (("1.2.1", 0x0112),)))
    lost = ("lost", "not kept: 0x0112, no such SOP instance", 1)
    assert states(journal) == [("committed", "", 0), lost]


def test_what_failed_counts_only_as_the_answer_to_the_last_question(
    journal: Journal, delivery: Delivery
) -> None:
    journal.objects.note(delivery.key, [SR, SEG])
    for transaction in ("1.8", "1.9"):
        journal.objects.ask(delivery.key, transaction, ["1.2.1", "1.2.2"])
    late = CommitmentReport("1.8", ("1.2.2",), (("1.2.1", 0x0112),))
    assert journal.objects.reported(late)
    assert states(journal) == [("committed", "", 0), ("sent", "", 0)]


def test_a_report_that_nobody_asked_for_changes_nothing(
    journal: Journal, delivery: Delivery
) -> None:
    journal.objects.note(delivery.key, [SR])
    assert not journal.objects.reported(CommitmentReport("1.7", ("1.2.1",), ()))
    assert states(journal) == [("sent", "", 0)]


def test_a_delivery_that_is_retried_begins_anew(journal: Journal, delivery: Delivery) -> None:
    refused = SentObject("1.2.1", "1.2", "sr", ObjectState.REFUSED, "0xC000", 1)
    journal.objects.note(delivery.key, [refused, SEG])
    journal.objects.ask(delivery.key, "1.9", ["1.2.2"])
    assert journal.work.bury(delivery, "a", "refused")
    assert journal.work.retry(PACS)
    assert journal.objects.of(PACS) == [SEG]


# -- a PACS that rejects this node ----------------------------------------------------------------


def test_nothing_goes_to_a_destination_that_rejects_us_until_a_person_says_so(
    journal: Journal, delivery: Delivery, clock: Clock
) -> None:
    assert journal.work.reject(delivery, "a", "does not know LIMEN")
    clock.forward(7 * 86400)
    assert journal.work.claim(Delivery, PACS, "a", 30) is None
    assert [w for w in journal.publishing.due() if w.key == PACS] == []
    assert state_of(journal, PACS) == "queued"
    lane = journal.status.queues()["main-pacs"]
    assert (lane.unwelcome, lane.queued) == ("does not know LIMEN", 1)
    assert not journal.work.ask_again("django")
    assert journal.work.ask_again("main-pacs")
    assert claim(journal).key == PACS
    assert not journal.work.ask_again("main-pacs")


# -- telling people -------------------------------------------------------------------------------


def test_each_end_of_a_delivery_is_told_once_at_a_time(
    journal: Journal, delivery: Delivery
) -> None:
    assert journal.work.delivered(delivery, "a", WorkState.SENT, tell="django")
    again = claim(journal)
    assert journal.work.delivered(again, "a", WorkState.COMMITTED, tell="django")
    told = [w for w in journal.publishing.due() if w.key == f"{PACS}-told"]
    assert [(w.destination, w.about) for w in told if isinstance(w, Delivery)] == [
        ("django", "main-pacs")
    ]
    assert f"{PACS}-told" not in [d.key for d in journal.status.study(KEY, 1).deliveries]
