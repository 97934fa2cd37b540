"""limen.journal: a study whose originals are archived first, and predicted then."""

from __future__ import annotations

from dataclasses import replace

from limen.journal import Delivery, Job, Journal
from limen.states import StudyState
from tests.support.journals import KEY, PREDICTION, claimed, state_of
from tests.support.samples import SUMMARY, Clock, new_instance

ORIGINALS = f"{KEY}-1-originals"


def complete(journal: Journal) -> None:
    journal.receiving.record([new_instance(n) for n in (1, 2)])
    assert journal.receiving.complete(KEY, 1, originals_first=True)


def on_its_way(journal: Journal, key: str = ORIGINALS) -> Delivery:
    delivery = journal.work.claim(Delivery, key, "a", 30)
    assert delivery is not None
    return delivery


def due(journal: Journal) -> list[str]:
    return [work.key for work in journal.publishing.due()]


def test_the_prediction_is_due_when_the_originals_have_arrived_and_not_before(
    journal: Journal,
) -> None:
    complete(journal)
    row = journal.status.study(KEY, 1)
    assert (row.state, row.jobs, due(journal)) == (StudyState.COMPLETE, (), [ORIGINALS])
    assert [(d.destination, d.originals) for d in row.deliveries] == [("archive", True)]
    assert journal.work.delivered(on_its_way(journal), "a")
    assert due(journal) == [PREDICTION]


def test_originals_that_are_given_up_leave_a_study_that_ends(journal: Journal) -> None:
    complete(journal)
    assert journal.work.bury(on_its_way(journal), "a", "answered 413")
    assert due(journal) == [PREDICTION]
    assert [row.key for row in journal.status.dead()] == [ORIGINALS]


def test_originals_that_a_person_tries_again_make_no_second_prediction(journal: Journal) -> None:
    complete(journal)
    journal.work.bury(on_its_way(journal), "a", "answered 413")
    job = claimed(journal)
    assert journal.work.commit(job, "a", SUMMARY, [])
    assert journal.work.retry(ORIGINALS)
    assert journal.work.delivered(on_its_way(journal), "a")
    assert (due(journal), len(journal.status.study(KEY, 1).jobs)) == ([], 1)


def test_an_archive_that_is_away_is_asked_by_one_and_lets_the_others_go(
    journal: Journal, clock: Clock
) -> None:
    complete(journal)
    other = new_instance(1, "1.2.3")
    journal.receiving.record([other])
    journal.receiving.complete(other.study_key, 1, originals_first=True)
    journal.work.postpone_until_there(on_its_way(journal), "a", 5, "away", probe_s=(5, 60))
    assert journal.status.queues()["archive"].away_s is not None
    assert due(journal) == []
    clock.forward(6)
    (probe,) = due(journal)
    assert journal.work.delivered(on_its_way(journal, probe), "a")
    assert len(due(journal)) == 2  # its prediction, and the other originals


def test_originals_go_before_results_that_are_no_more_urgent(
    journal: Journal, clock: Clock
) -> None:
    complete(journal)
    journal.work.delivered(on_its_way(journal), "a")
    journal.work.commit(claimed(journal), "a", SUMMARY, ["archive"])
    clock.forward(10)
    other = new_instance(1, "1.2.3")
    journal.receiving.record([other])
    journal.receiving.complete(other.study_key, 1, originals_first=True)
    (first,) = journal.publishing.waiting("archive")
    assert first.key == f"{other.study_key}-1-originals"


def test_a_study_that_is_asked_for_again_is_archived_again_first(journal: Journal) -> None:
    complete(journal)
    journal.work.delivered(on_its_way(journal), "a")
    assert journal.receiving.replay(KEY, originals_first=True) == 2
    assert f"{KEY}-2-originals" in due(journal)


def test_what_waits_for_what_it_needs_counts_no_attempt_and_says_why(
    journal: Journal, clock: Clock
) -> None:
    complete(journal)
    journal.work.delivered(on_its_way(journal), "a")
    for _ in range(5):
        assert journal.work.give_back(Job, claimed(journal).key, "a", 5, "the archive is away")
        clock.forward(6)
    (job,) = journal.status.study(KEY, 1).jobs
    assert (job.state, job.attempts, job.last_error) == ("queued", 0, "the archive is away")
    (attempts,) = [e for e in journal.events.of(KEY) if e.subject == PREDICTION]
    assert (attempts.times, attempts.text) == (5, "the archive is away")
    assert state_of(journal, ORIGINALS) == "done"


def test_the_committed_document_is_known_by_its_digest(journal: Journal) -> None:
    complete(journal)
    journal.work.delivered(on_its_way(journal), "a")
    assert journal.events.committed(KEY, 1, "prediction") == ""
    summary = replace(SUMMARY, document_sha256="ab" * 32)
    journal.work.commit(claimed(journal), "a", summary, [])
    assert journal.events.committed(KEY, 1, "prediction") == "ab" * 32
    assert journal.events.committed(KEY, 1, "explanation") == ""
