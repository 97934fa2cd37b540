"""limen.journal.publishing: what needs a message; with the settings as they ship."""

from __future__ import annotations

import pytest

from limen.config import Queue
from limen.journal import Delivery, Journal
from limen.result import Phase
from tests.support.journals import BOTH, EXPLANATION, PREDICTION, claimed, predicted, receive
from tests.support.samples import SUMMARY, Clock

QUEUE = Queue()
"""The settings as they ship: 60 s from message to message, 30 s of lease."""


def due(journal: Journal) -> list[str]:
    return [work.key for work in journal.publishing.due()]


def send(journal: Journal, times: int = 1) -> None:
    """Send that many messages for the one piece of work, each when it is due."""
    for _ in range(times):
        (work,) = journal.publishing.waiting(Phase.PREDICTION)
        assert journal.publishing.sending(work, QUEUE.republish_s)


def test_work_is_due_until_it_is_published_and_again_after_twice_the_wait(
    journal: Journal, clock: Clock
) -> None:
    receive(journal)
    waits = []
    for _ in range(9):
        (work,) = journal.publishing.due()
        journal.publishing.sending(work, 60)
        before = clock.now
        while not journal.publishing.due():
            clock.forward(60)
        waits.append((clock.now - before).total_seconds() / 60)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_a_message_that_was_not_confirmed_is_no_publication(journal: Journal, clock: Clock) -> None:
    receive(journal)
    for _ in range(6):
        (work,) = journal.publishing.due()
        sent = journal.publishing.sending(work, 60)
        assert sent is not None
        journal.publishing.not_sent(sent, 2)
        assert due(journal) == []
        clock.forward(2)
        assert due(journal) == [PREDICTION]
    (work,) = journal.publishing.due()
    journal.publishing.sending(work, 60)
    clock.forward(60)
    assert due(journal) == [PREDICTION]


def test_of_two_that_read_the_same_row_one_sends(journal: Journal) -> None:
    receive(journal)
    (work,), (same,) = journal.publishing.due(), journal.publishing.due()
    assert journal.publishing.sending(work, 60)
    assert journal.publishing.sending(same, 60) is None


@pytest.mark.parametrize("anew", [True, False])
def test_nothing_is_sent_for_what_was_claimed_since_it_was_read(
    journal: Journal, clock: Clock, anew: bool
) -> None:
    receive(journal)
    (work,) = journal.publishing.due()
    claimed(journal, lease_s=QUEUE.lease_s)
    assert journal.publishing.sending(work, QUEUE.republish_s, anew=anew) is None
    clock.forward(QUEUE.lease_s + 1)
    assert due(journal) == [PREDICTION]


def test_a_message_that_fails_late_changes_nothing_for_what_was_claimed_meanwhile(
    journal: Journal, clock: Clock
) -> None:
    receive(journal)
    (work,) = journal.publishing.due()
    sent = journal.publishing.sending(work, QUEUE.republish_s)
    claimed(journal, lease_s=QUEUE.lease_s)
    assert sent is not None
    journal.publishing.not_sent(sent, 2)
    clock.forward(QUEUE.lease_s + 1)
    assert due(journal) == [PREDICTION]


@pytest.mark.parametrize("messages", [0, 1, 2, 7, 20])
def test_what_a_dead_worker_held_is_due_when_its_lease_ends_whatever_came_before(
    journal: Journal, clock: Clock, messages: int
) -> None:
    receive(journal)
    send(journal, messages)
    claimed(journal, lease_s=QUEUE.lease_s)
    clock.forward(QUEUE.lease_s - 1)
    assert due(journal) == []
    clock.forward(2)
    assert due(journal) == [PREDICTION]


@pytest.mark.parametrize("beats", [1, 10])
def test_what_a_worker_held_that_died_after_renewals_is_due_when_the_last_lease_ends(
    journal: Journal, clock: Clock, beats: int
) -> None:
    receive(journal)
    send(journal, 7)
    claimed(journal, lease_s=QUEUE.lease_s)
    for _ in range(beats):
        clock.forward(QUEUE.lease_s / 3)
        journal.work.renew("a", QUEUE.lease_s, [PREDICTION])
    clock.forward(QUEUE.lease_s - 1)
    assert due(journal) == []
    clock.forward(2)
    assert due(journal) == [PREDICTION]


def test_what_died_with_many_workers_is_due_again_each_time(journal: Journal, clock: Clock) -> None:
    receive(journal)
    for n in range(5):
        send(journal)
        claimed(journal, owner=f"w{n}", lease_s=QUEUE.lease_s)
        clock.forward(QUEUE.lease_s + 1)
        assert due(journal) == [PREDICTION]


def test_a_ring_does_not_stretch_the_interval_of_the_sweep(journal: Journal, clock: Clock) -> None:
    receive(journal)
    for _ in range(20):
        (work,) = journal.publishing.waiting(Phase.PREDICTION)
        assert journal.publishing.sending(work, QUEUE.republish_s, anew=True)
        clock.forward(1)
    clock.forward(QUEUE.republish_s)
    assert due(journal) == [PREDICTION]


def test_work_whose_lease_has_ended_waits_in_its_lane(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal, lease_s=QUEUE.lease_s)
    assert journal.publishing.waiting(Phase.PREDICTION) == []
    clock.forward(QUEUE.lease_s + 1)
    assert [w.key for w in journal.publishing.waiting(Phase.PREDICTION)] == [PREDICTION]


def test_predictions_are_due_before_explanations_and_jobs_before_deliveries(
    journal: Journal,
) -> None:
    predicted(journal, explain=True)
    receive(journal, "1.2.3")
    assert [(type(w).__name__, w.phase) for w in journal.publishing.due()] == [
        ("Job", Phase.PREDICTION),
        ("Job", Phase.EXPLANATION),
        ("Delivery", Phase.PREDICTION),
        ("Delivery", Phase.PREDICTION),
    ]


def test_the_sweep_takes_no_more_than_asked_for(journal: Journal) -> None:
    for n in range(5):
        receive(journal, f"1.2.{n}", instances=1)
    assert len(journal.publishing.due(limit=2)) == 2


def test_the_longest_waiting_work_of_a_lane_is_next(journal: Journal, clock: Clock) -> None:
    assert journal.publishing.waiting(Phase.PREDICTION) == []
    receive(journal)
    clock.forward(1)
    receive(journal, "1.2.3")
    (first, *_) = journal.publishing.due()
    journal.publishing.sending(first, 60)  # published or not does not matter
    (waiting,) = journal.publishing.waiting(Phase.PREDICTION)
    assert waiting.key == PREDICTION
    assert len(journal.publishing.waiting(Phase.PREDICTION, 5)) == 2
    assert journal.publishing.waiting(Phase.EXPLANATION) == []
    assert journal.publishing.waiting("archive") == []


def test_a_destination_is_a_lane_of_its_own_for_both_phases(journal: Journal) -> None:
    predicted(journal, explain=True)
    journal.work.commit(claimed(journal, EXPLANATION), "a", SUMMARY, BOTH)
    journal.work.delivered(journal.work.claim(Delivery, f"{PREDICTION}-archive", "a", 30), "a")
    (waiting,) = journal.publishing.waiting("archive")
    assert isinstance(waiting, Delivery)
    assert (waiting.destination, waiting.phase) == ("archive", Phase.EXPLANATION)
