"""limen.journal.receiving: instances, revisions, and when a study is complete."""

from __future__ import annotations

from dataclasses import replace

from limen.journal import Journal, OpenRevision
from limen.states import StudyState
from tests.support.journals import (
    KEY,
    PREDICTION,
    claimed,
    paths,
    predicted,
    receive,
)
from tests.support.samples import START, Clock, new_instance


def test_a_batch_is_written_once_however_often_it_is_recorded(journal: Journal) -> None:
    batch = [new_instance(n) for n in (1, 2, 3)]
    assert [(r.new, r.revision) for r in journal.receiving.record(batch)] == [(True, 1)] * 3
    again = journal.receiving.record(batch)
    assert [(r.new, r.conflict, r.revision) for r in again] == [(False, False, 1)] * 3
    assert len(journal.receiving.instances(KEY, 1)) == 3
    assert paths(journal) == {i.path for i in batch}


def test_an_instance_twice_in_one_batch_is_one_instance(journal: Journal) -> None:
    rows = journal.receiving.record([new_instance(), new_instance()])
    assert [r.new for r in rows] == [True, False]


def test_other_bytes_under_the_same_uid_are_a_conflict_and_kept_beside(journal: Journal) -> None:
    journal.receiving.record([new_instance()])
    (row,) = journal.receiving.record([new_instance(content="other")])
    assert (row.new, row.conflict, row.revision) == (True, True, 1)
    assert len(paths(journal)) == 2


def test_an_identical_resend_of_a_complete_study_makes_nothing(journal: Journal) -> None:
    receive(journal)
    (row,) = journal.receiving.record([new_instance(1)])
    assert (row.new, row.revision) == (False, 1)
    assert journal.receiving.open_revisions() == []


def test_a_late_instance_opens_the_next_revision(journal: Journal) -> None:
    receive(journal)
    (row,) = journal.receiving.record([new_instance(4)])
    assert (row.new, row.revision) == (True, 2)
    assert journal.receiving.open_revisions() == [OpenRevision(KEY, 2)]
    assert len(journal.receiving.instances(KEY, 1)) == 3
    assert len(journal.receiving.instances(KEY, 2)) == 4


def test_a_result_that_comes_back_opens_no_revision_and_is_part_of_the_next(
    journal: Journal,
) -> None:
    """A PACS that forwards what it gets, and is sent results, asks for no analysis without end."""
    receive(journal)
    result = replace(new_instance(4), is_result=True)
    for new in (True, False):
        (row,) = journal.receiving.record([result])
        assert row.new is new
    assert journal.receiving.open_revisions() == []
    assert len(journal.receiving.instances(KEY, 1)) == 3
    assert result.path in paths(journal)
    journal.receiving.record([new_instance(5)])
    assert journal.receiving.open_revisions() == [OpenRevision(KEY, 2)]
    assert len(journal.receiving.instances(KEY, 2)) == 5


def test_a_result_that_comes_with_its_study_belongs_to_it(journal: Journal) -> None:
    rows = journal.receiving.record([new_instance(1), replace(new_instance(2), is_result=True)])
    assert [row.revision for row in rows] == [1, 1]


def test_a_revision_sees_every_content_up_to_itself(journal: Journal) -> None:
    receive(journal, instances=1)
    newer = new_instance(1, content="other")
    journal.receiving.record([newer])
    digests = [new_instance(1).digest, newer.digest]
    assert [i.digest for i in journal.receiving.instances(KEY, 1)] == digests[:1]
    assert [i.digest for i in journal.receiving.instances(KEY, 2)] == digests


def test_the_last_instance_is_noted_on_the_study(journal: Journal, clock: Clock) -> None:
    journal.receiving.record([new_instance(1)])
    clock.forward(3)
    journal.receiving.record([new_instance(2, at=clock.now)])
    row = journal.status.study(KEY, 1)
    assert (row.received_at, row.last_instance_at) == (START, clock.now)


def test_a_study_is_completed_once(journal: Journal, clock: Clock) -> None:
    journal.receiving.record([new_instance()])
    clock.forward(5)
    assert journal.receiving.complete(KEY, 1)
    assert not journal.receiving.complete(KEY, 1)
    row = journal.status.study(KEY, 1)
    assert (row.state, row.complete_at) == (StudyState.COMPLETE, clock.now)
    assert [j.key for j in row.jobs] == [PREDICTION]


def test_a_study_that_is_not_there_is_not_completed(journal: Journal) -> None:
    assert not journal.receiving.complete(KEY, 1)
    assert journal.publishing.due() == []


def test_a_replay_is_a_new_revision_with_the_instances_there_are(journal: Journal) -> None:
    predicted(journal)
    assert journal.receiving.replay(KEY) == 2
    row = journal.status.study(KEY, 2)
    assert (row.state, row.instances, row.outcome) == ("complete", 3, None)
    assert claimed(journal, f"{KEY}-2-prediction").revision == 2


def test_a_study_that_is_unknown_or_incomplete_is_not_replayed(journal: Journal) -> None:
    assert journal.receiving.replay(KEY) is None
    journal.receiving.record([new_instance()])
    assert journal.receiving.replay(KEY) is None
