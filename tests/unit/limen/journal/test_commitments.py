"""limen.journal.commitments: requests are claimed, settled and asked again."""

from __future__ import annotations

from limen.instance import NewCommitment
from limen.journal import Journal
from limen.states import WorkState
from tests.support.samples import Clock

ASKED = NewCommitment("1.2.3.4", "CT1", "10.0.0.1", (("1.2", "1.2.3"),))


def test_a_request_is_claimed_by_one_and_counts_its_claims(journal: Journal) -> None:
    key = journal.commitments.ask(ASKED)
    claimed = journal.commitments.claim("a", 30)
    assert claimed is not None
    assert (claimed.key, claimed.asked, claimed.attempts) == (key, ASKED, 1)
    assert journal.commitments.claim("b", 30) is None


def test_a_request_whose_lease_has_ended_is_claimed_again(journal: Journal, clock: Clock) -> None:
    journal.commitments.ask(ASKED)
    journal.commitments.claim("a", 30)
    clock.forward(31)
    again = journal.commitments.claim("b", 30)
    assert again is not None
    assert again.attempts == 2
    assert not journal.commitments.settle(again.key, "a", WorkState.DONE)
    assert journal.commitments.settle(again.key, "b", WorkState.DONE)


def test_a_request_that_is_put_back_is_due_after_its_wait(journal: Journal, clock: Clock) -> None:
    key = journal.commitments.ask(ASKED)
    journal.commitments.claim("a", 30)
    assert journal.commitments.settle(key, "a", WorkState.QUEUED, "away", 60)
    assert journal.commitments.claim("a", 30) is None
    clock.forward(61)
    assert journal.commitments.claim("a", 30) is not None


def test_a_request_that_is_asked_again_is_answered_again(journal: Journal) -> None:
    key = journal.commitments.ask(ASKED)
    journal.commitments.claim("a", 30)
    assert journal.commitments.ask(ASKED) == key
    assert not journal.commitments.settle(key, "a", WorkState.DONE)
    assert [(c.state, c.attempts) for c in journal.commitments.all()] == [("queued", 0)]
