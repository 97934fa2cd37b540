"""limen.journal.work: claims, leases and how work ends."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from limen.errors import Transient
from limen.journal import Delivery, Job, Journal, Shadow, Summary, Work, backoff_s
from limen.result import Outcome, Phase
from limen.states import StudyState, WorkState
from tests.support.journals import (
    BOTH,
    EXPLANATION,
    KEY,
    PREDICTION,
    claimed,
    predicted,
    receive,
    state_of,
)
from tests.support.samples import SUMMARY, Clock

# -- claims and leases -----------------------------------------------------------------------------


def test_of_two_owners_one_wins(journal: Journal) -> None:
    receive(journal)
    work = claimed(journal)
    assert (work.key, work.attempts, work.phase) == (PREDICTION, 1, Phase.PREDICTION)
    assert journal.work.claim(Job, PREDICTION, "b", 30) is None


def test_of_eight_threads_one_wins(journal: Journal) -> None:
    receive(journal)
    together = threading.Barrier(8)
    won: list[Work] = []

    def race(owner: str) -> None:
        together.wait()
        work = journal.work.claim(Job, PREDICTION, owner, 30)
        if work is not None:
            won.append(work)

    threads = [threading.Thread(target=race, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [w.attempts for w in won] == [1]


def test_an_unknown_key_is_not_to_be_had(journal: Journal) -> None:
    assert journal.work.claim(Job, "nothing", "a", 30) is None
    assert journal.work.claim(Delivery, PREDICTION, "a", 30) is None


def test_a_lease_that_has_ended_lets_another_claim(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal, lease_s=30)
    clock.forward(29)
    assert journal.work.claim(Job, PREDICTION, "b", 30) is None
    clock.forward(2)
    assert claimed(journal, owner="b").attempts == 2
    assert journal.work.owners() == {"b"}


def test_a_lease_that_is_renewed_holds(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal)
    clock.forward(20)
    journal.work.renew("a", 30, [PREDICTION])
    clock.forward(20)
    assert journal.work.claim(Job, PREDICTION, "b", 30) is None


def test_only_what_is_named_is_renewed(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal)
    clock.forward(20)
    journal.work.renew("a", 30, [])
    journal.work.renew("b", 30, [PREDICTION])
    clock.forward(20)
    assert journal.work.claim(Job, PREDICTION, "b", 30) is not None


def test_what_a_dead_owner_ran_is_released_and_due_at_once(journal: Journal) -> None:
    receive(journal)
    claimed(journal)
    assert journal.work.release_dead("somebody else") == 0
    assert journal.work.release_dead("a") == 1
    assert journal.work.owners() == set()
    assert [w.key for w in journal.publishing.due()] == [PREDICTION]
    assert claimed(journal, owner="b").attempts == 2


def test_what_is_given_back_is_due_at_once_and_cost_no_attempt(journal: Journal) -> None:
    receive(journal)
    for _ in range(5):
        assert claimed(journal).attempts == 1
        assert journal.work.release("somebody else") == 0
        assert journal.work.release("a") == 1
        assert [w.key for w in journal.publishing.due()] == [PREDICTION]


def test_a_claim_that_its_worker_did_not_outlive_is_a_loss(journal: Journal, clock: Clock) -> None:
    receive(journal)
    assert claimed(journal).losses == 0
    clock.forward(31)
    assert claimed(journal, owner="b").losses == 1
    journal.work.release_dead("b")
    assert claimed(journal, owner="c").losses == 2
    journal.work.release("c")
    work = claimed(journal, owner="d")
    assert (work.losses, work.attempts) == (2, 3)
    journal.work.postpone(work, "d", 0, "x")
    assert claimed(journal, owner="e").losses == 2


def test_what_was_not_begun_is_given_back_and_cost_no_attempt(
    journal: Journal, clock: Clock
) -> None:
    receive(journal)
    assert journal.work.give_back(Job, claimed(journal).key, "a", 2)
    assert journal.work.claim(Job, PREDICTION, "a", 30) is None
    clock.forward(2)
    assert [w.key for w in journal.publishing.due()] == [PREDICTION]
    assert claimed(journal).attempts == 1


def test_what_failed_is_due_after_its_wait(journal: Journal, clock: Clock) -> None:
    receive(journal)
    work = claimed(journal)
    assert journal.work.postpone(work, "a", 60, "the bucket is away")
    assert journal.work.claim(Job, PREDICTION, "a", 30) is None
    assert journal.publishing.due() == []
    clock.forward(61)
    assert [w.key for w in journal.publishing.due()] == [PREDICTION]
    assert claimed(journal).attempts == 2
    assert journal.status.study(KEY, 1).jobs[0].last_error == "the bucket is away"


def test_a_stranger_cannot_postpone_commit_or_end_work(journal: Journal) -> None:
    predicted(journal)
    delivery = journal.work.claim(Delivery, f"{PREDICTION}-archive", "a", 30)
    assert not journal.work.postpone(delivery, "b", 1, "")
    assert not journal.work.delivered(delivery, "b")
    assert not journal.work.bury(delivery, "b", "")
    assert state_of(journal, delivery.key) == WorkState.RUNNING


def test_the_wait_doubles_up_to_its_limit() -> None:
    assert [backoff_s(n, 2, 20) for n in (0, 1, 2, 3, 4, 5, 1000)] == [2, 2, 4, 8, 16, 20, 20]


# -- commits ---------------------------------------------------------------------------------------


def test_a_prediction_is_committed_with_all_that_follows(journal: Journal, clock: Clock) -> None:
    receive(journal)
    clock.forward(7)
    assert journal.work.commit(claimed(journal), "a", SUMMARY, BOTH, explain=True)
    row = journal.status.study(KEY, 1)
    assert (row.state, row.outcome, row.probability) == ("predicted", "positive", 0.9)
    assert (row.positive_slices, row.slices) == (2, 3)
    assert (row.predicted_at, row.explained_at) == (clock.now, None)
    assert [(j.phase, j.state) for j in row.jobs] == [
        ("explanation", "queued"),
        ("prediction", "done"),
    ]
    assert [(d.destination, d.phase, d.state) for d in row.deliveries] == [
        ("archive", "prediction", "queued"),
        ("django", "prediction", "queued"),
    ]


def test_without_an_explanation_the_study_is_done(journal: Journal) -> None:
    predicted(journal)
    row = journal.status.study(KEY, 1)
    assert row.state == StudyState.DONE
    assert len(row.jobs) == 1


def test_an_explanation_ends_the_study_and_leaves_its_outcome(journal: Journal) -> None:
    predicted(journal, explain=True)
    work = claimed(journal, EXPLANATION)
    other = Summary(Outcome.NEGATIVE, "", 0.0, 0, 3)
    assert journal.work.commit(work, "a", other, BOTH)
    row = journal.status.study(KEY, 1)
    assert (row.state, row.outcome, row.probability) == ("done", "positive", 0.9)
    assert row.explained_at is not None
    assert len(row.deliveries) == 4


def test_a_commit_after_the_lease_was_lost_writes_nothing(journal: Journal, clock: Clock) -> None:
    receive(journal)
    work = claimed(journal, lease_s=10)
    clock.forward(11)
    claimed(journal, owner="b")
    assert not journal.work.commit(work, "a", SUMMARY, BOTH, explain=True)
    row = journal.status.study(KEY, 1)
    assert (row.state, row.outcome, row.deliveries, len(row.jobs)) == ("complete", None, (), 1)


def test_a_job_that_is_given_up_leaves_its_reason_on_the_study(journal: Journal) -> None:
    receive(journal)
    summary = Summary(Outcome.NOT_ANALYSED, "prediction failed: x", None, None, None)
    assert journal.work.commit(claimed(journal), "a", summary, BOTH, explain=True, failed="x")
    row = journal.status.study(KEY, 1)
    assert (row.state, row.reason, row.outcome) == ("failed", "x", "not_analysed")
    assert [(j.state, j.last_error) for j in row.jobs] == [("dead", "x")]
    assert len(row.deliveries) == 2


def test_a_commit_that_fails_half_way_leaves_nothing_behind(journal: Journal) -> None:
    receive(journal)
    work = claimed(journal)
    with pytest.raises(Transient):
        journal.work.commit(
            work, "a", SUMMARY, ("archive", "archive"), explain=True
        )  # the same key twice
    row = journal.status.study(KEY, 1)
    assert (row.state, row.deliveries, row.jobs[0].state) == ("complete", (), "running")


def test_a_delivery_ends_done_or_dead(journal: Journal) -> None:
    predicted(journal)
    django = journal.work.claim(Delivery, f"{PREDICTION}-django", "a", 30)
    archive = journal.work.claim(Delivery, f"{PREDICTION}-archive", "a", 30)
    assert journal.work.delivered(django, "a")
    assert journal.work.bury(archive, "a", "answered 409")
    rows = {d.destination: d for d in journal.status.study(KEY, 1).deliveries}
    assert (rows["django"].state, rows["archive"].state) == ("done", "dead")
    assert rows["archive"].last_error == "answered 409"


# -- shadows ---------------------------------------------------------------------------------------


CANDIDATE = replace(SUMMARY, bundle="candidate", bundle_version="0.2.0")


def shadowed(journal: Journal) -> Shadow:
    """Predict a study that a route in shadow takes too; claim the shadow."""
    receive(journal)
    assert journal.work.commit(claimed(journal), "a", SUMMARY, BOTH, shadows=["try"])
    work = journal.work.claim(Shadow, f"{KEY}-1-shadow1", "a", 30)
    assert work is not None
    return work


def test_a_shadow_is_work_of_its_own(journal: Journal, clock: Clock) -> None:
    work = shadowed(journal)
    assert (work.route, work.lane, work.attempts, work.losses) == ("try", "shadow", 1, 0)
    row = journal.status.study(KEY, 1)
    assert (row.state, [s.state for s in row.shadows]) == ("done", ["running"])
    clock.forward(31)
    assert work.key in [w.key for w in journal.publishing.due()]
    assert [w.key for w in journal.publishing.waiting("shadow")] == [work.key]
    assert journal.status.queues()["shadow"].running == 1


def test_what_a_shadow_says_goes_to_the_archive_alone(journal: Journal) -> None:
    work = shadowed(journal)
    assert not journal.work.commit_shadow(work, "b", CANDIDATE, "archive")
    assert journal.work.commit_shadow(work, "a", CANDIDATE, "archive")
    delivery = journal.work.claim(Delivery, f"{work.key}-archive", "a", 30)
    assert delivery is not None
    assert (delivery.destination, delivery.shadow) == ("archive", "candidate")
    assert state_of(journal, work.key) == "done"


def test_a_shadow_that_is_given_up_leaves_the_study_alone(journal: Journal) -> None:
    work = shadowed(journal)
    assert journal.work.bury(work, "a", "no such bundle")
    row = journal.status.study(KEY, 1)
    assert (row.state, row.outcome) == ("done", "positive")
    assert [(s.state, s.last_error) for s in row.shadows] == [("dead", "no such bundle")]


def test_results_are_delivered_before_those_of_shadows(journal: Journal) -> None:
    work = shadowed(journal)
    assert journal.work.commit_shadow(work, "a", CANDIDATE, "archive")
    keys = [w.key for w in journal.publishing.waiting("archive", 5)]
    assert keys == [f"{PREDICTION}-archive", f"{work.key}-archive"]


# -- people ----------------------------------------------------------------------------------------


def test_a_dead_delivery_is_queued_again_with_its_attempts_from_0(
    journal: Journal, clock: Clock
) -> None:
    predicted(journal)
    key = f"{PREDICTION}-archive"
    journal.work.bury(journal.work.claim(Delivery, key, "a", 30), "a", "answered 409")
    clock.forward(3600)
    assert journal.work.retry(key)
    assert not journal.work.retry(key)
    again = journal.work.claim(Delivery, key, "a", 30)
    assert (again.attempts, again.created_at) == (1, clock.now)


def test_only_a_dead_delivery_is_retried(journal: Journal) -> None:
    predicted(journal)
    assert not journal.work.retry(f"{PREDICTION}-archive")
    assert not journal.work.retry(PREDICTION)
    assert not journal.work.retry("nothing")
