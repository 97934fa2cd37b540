"""limen.journal: every statement, on SQLite and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from limen import journal as module
from limen.errors import Permanent, Transient, Unreachable
from limen.journal import METADATA, Delivery, Job, Journal, Summary, Work, backoff_s
from limen.result import Outcome, Phase
from limen.states import StudyState, WorkState
from limen.uids import key_of
from tests.samples import START, STUDY_UID, SUMMARY, Clock, new_instance

KEY = key_of(STUDY_UID)
JOB = f"{KEY}-1-prediction"
BOTH = ("django", "gcs")


def receive(journal: Journal, study_uid: str = STUDY_UID, instances: int = 3) -> str:
    """Record a study and complete it; return its key."""
    journal.record([new_instance(n, study_uid) for n in range(1, instances + 1)])
    assert journal.complete(key_of(study_uid), 1)
    return key_of(study_uid)


def claimed(journal: Journal, key: str = JOB, owner: str = "a", lease_s: float = 30.0) -> Work:
    work = journal.claim(Job, key, owner, lease_s)
    assert work is not None
    return work


def predicted(journal: Journal, *, explain: bool = False) -> None:
    """Bring the study of ``receive`` past its prediction."""
    receive(journal)
    assert journal.commit(claimed(journal), "a", SUMMARY, BOTH, explain=explain)


def state_of(journal: Journal, key: str) -> str:
    for row in journal.studies():
        for work in (*row.jobs, *row.deliveries):
            if work.key == key:
                return work.state
    raise AssertionError(f"no work {key}")


# -- receiving -------------------------------------------------------------------------------------


def test_a_batch_is_written_once_however_often_it_is_recorded(journal: Journal) -> None:
    batch = [new_instance(n) for n in (1, 2, 3)]
    assert [(r.new, r.revision) for r in journal.record(batch)] == [(True, 1)] * 3
    again = journal.record(batch)
    assert [(r.new, r.conflict, r.revision) for r in again] == [(False, False, 1)] * 3
    assert len(journal.instances(KEY, 1)) == 3
    assert journal.paths() == {i.path for i in batch}


def test_an_instance_twice_in_one_batch_is_one_instance(journal: Journal) -> None:
    rows = journal.record([new_instance(), new_instance()])
    assert [r.new for r in rows] == [True, False]


def test_other_bytes_under_the_same_uid_are_a_conflict_and_kept_beside(journal: Journal) -> None:
    journal.record([new_instance()])
    (row,) = journal.record([new_instance(content="other")])
    assert (row.new, row.conflict, row.revision) == (True, True, 1)
    assert len(journal.paths()) == 2


def test_an_identical_resend_of_a_complete_study_makes_nothing(journal: Journal) -> None:
    receive(journal)
    (row,) = journal.record([new_instance(1)])
    assert (row.new, row.revision) == (False, 1)
    assert journal.receiving() == []


def test_a_late_instance_opens_the_next_revision(journal: Journal) -> None:
    receive(journal)
    (row,) = journal.record([new_instance(4)])
    assert (row.new, row.revision) == (True, 2)
    assert journal.receiving() == [(KEY, 2)]
    assert len(journal.instances(KEY, 1)) == 3
    assert len(journal.instances(KEY, 2)) == 4


def test_a_revision_sees_the_newest_content_up_to_itself(journal: Journal) -> None:
    receive(journal, instances=1)
    newer = new_instance(1, content="other")
    journal.record([newer])
    assert journal.instances(KEY, 1)[0].digest == new_instance(1).digest
    assert journal.instances(KEY, 2)[0].digest == newer.digest
    assert len(journal.instances(KEY, 2)) == 1


def test_the_last_instance_is_noted_on_the_study(journal: Journal, clock: Clock) -> None:
    journal.record([new_instance(1)])
    clock.forward(3)
    journal.record([new_instance(2, at=clock.now)])
    row = journal.study(KEY, 1)
    assert (row.received_at, row.last_instance_at) == (START, clock.now)


def test_a_study_is_completed_once(journal: Journal, clock: Clock) -> None:
    journal.record([new_instance()])
    clock.forward(5)
    assert journal.complete(KEY, 1)
    assert not journal.complete(KEY, 1)
    row = journal.study(KEY, 1)
    assert (row.state, row.complete_at) == (StudyState.COMPLETE, clock.now)
    assert [j.key for j in row.jobs] == [JOB]


def test_a_study_that_is_not_there_is_not_completed(journal: Journal) -> None:
    assert not journal.complete(KEY, 1)
    assert journal.due() == []


def test_a_study_is_asked_for_by_revision(journal: Journal) -> None:
    with pytest.raises(Permanent, match="no revision 7"):
        journal.study(KEY, 7)


# -- claims and leases -----------------------------------------------------------------------------


def test_of_two_owners_one_wins(journal: Journal) -> None:
    receive(journal)
    work = claimed(journal)
    assert (work.key, work.attempts, work.phase) == (JOB, 1, Phase.PREDICTION)
    assert journal.claim(Job, JOB, "b", 30) is None


def test_of_eight_threads_one_wins(journal: Journal) -> None:
    receive(journal)
    together = threading.Barrier(8)
    won: list[Work] = []

    def race(owner: str) -> None:
        together.wait()
        work = journal.claim(Job, JOB, owner, 30)
        if work is not None:
            won.append(work)

    threads = [threading.Thread(target=race, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [w.attempts for w in won] == [1]


def test_an_unknown_key_is_not_to_be_had(journal: Journal) -> None:
    assert journal.claim(Job, "nothing", "a", 30) is None
    assert journal.claim(Delivery, JOB, "a", 30) is None


def test_a_lease_that_has_ended_lets_another_claim(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal, lease_s=30)
    clock.forward(29)
    assert journal.claim(Job, JOB, "b", 30) is None
    clock.forward(2)
    assert claimed(journal, owner="b").attempts == 2
    assert journal.owners() == {"b"}


def test_a_lease_that_is_renewed_holds(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal)
    clock.forward(20)
    journal.renew("a", 30, [JOB])
    clock.forward(20)
    assert journal.claim(Job, JOB, "b", 30) is None


def test_only_what_is_named_is_renewed(journal: Journal, clock: Clock) -> None:
    receive(journal)
    claimed(journal)
    clock.forward(20)
    journal.renew("a", 30, [])
    journal.renew("b", 30, [JOB])
    clock.forward(20)
    assert journal.claim(Job, JOB, "b", 30) is not None


def test_what_a_dead_owner_ran_is_released_and_due_at_once(journal: Journal) -> None:
    receive(journal)
    claimed(journal)
    assert journal.release("somebody else") == 0
    assert journal.release("a") == 1
    assert journal.owners() == set()
    assert [w.key for w in journal.due()] == [JOB]
    assert claimed(journal, owner="b").attempts == 2


def test_what_failed_is_due_after_its_wait(journal: Journal, clock: Clock) -> None:
    receive(journal)
    work = claimed(journal)
    assert journal.postpone(work, "a", 60, "the bucket is away")
    assert journal.claim(Job, JOB, "a", 30) is None
    assert journal.due() == []
    clock.forward(61)
    assert [w.key for w in journal.due()] == [JOB]
    assert claimed(journal).attempts == 2
    assert journal.study(KEY, 1).jobs[0].last_error == "the bucket is away"


def test_a_stranger_cannot_postpone_commit_or_end_work(journal: Journal) -> None:
    predicted(journal)
    delivery = journal.claim(Delivery, f"{JOB}-gcs", "a", 30)
    assert not journal.postpone(delivery, "b", 1, "")
    assert not journal.delivered(delivery, "b")
    assert not journal.bury(delivery, "b", "")
    assert state_of(journal, delivery.key) == WorkState.RUNNING


def test_the_wait_doubles_up_to_its_limit() -> None:
    assert [backoff_s(n, 2, 20) for n in (0, 1, 2, 3, 4, 5, 1000)] == [2, 2, 4, 8, 16, 20, 20]


# -- commits ---------------------------------------------------------------------------------------


def test_a_prediction_is_committed_with_all_that_follows(journal: Journal, clock: Clock) -> None:
    receive(journal)
    clock.forward(7)
    assert journal.commit(claimed(journal), "a", SUMMARY, BOTH, explain=True)
    row = journal.study(KEY, 1)
    assert (row.state, row.outcome, row.probability) == ("predicted", "positive", 0.9)
    assert (row.positive_images, row.predicted_at, row.explained_at) == (2, clock.now, None)
    assert [(j.phase, j.state) for j in row.jobs] == [
        ("explanation", "queued"),
        ("prediction", "done"),
    ]
    assert [(d.destination, d.phase, d.state) for d in row.deliveries] == [
        ("django", "prediction", "queued"),
        ("gcs", "prediction", "queued"),
    ]


def test_without_an_explanation_the_study_is_done(journal: Journal) -> None:
    predicted(journal)
    row = journal.study(KEY, 1)
    assert row.state == StudyState.DONE
    assert len(row.jobs) == 1


def test_an_explanation_ends_the_study_and_leaves_its_outcome(journal: Journal) -> None:
    predicted(journal, explain=True)
    work = claimed(journal, f"{KEY}-1-explanation")
    other = Summary(Outcome.NEGATIVE, "", 0.0, 0)
    assert journal.commit(work, "a", other, BOTH)
    row = journal.study(KEY, 1)
    assert (row.state, row.outcome, row.probability) == ("done", "positive", 0.9)
    assert row.explained_at is not None
    assert len(row.deliveries) == 4


def test_a_commit_after_the_lease_was_lost_writes_nothing(journal: Journal, clock: Clock) -> None:
    receive(journal)
    work = claimed(journal, lease_s=10)
    clock.forward(11)
    claimed(journal, owner="b")
    assert not journal.commit(work, "a", SUMMARY, BOTH, explain=True)
    row = journal.study(KEY, 1)
    assert (row.state, row.outcome, row.deliveries, len(row.jobs)) == ("complete", None, (), 1)


def test_a_job_that_is_given_up_leaves_its_reason_on_the_study(journal: Journal) -> None:
    receive(journal)
    summary = Summary(Outcome.NOT_ANALYSED, "prediction failed: x", None, None)
    assert journal.commit(claimed(journal), "a", summary, BOTH, explain=True, failed="x")
    row = journal.study(KEY, 1)
    assert (row.state, row.reason, row.outcome) == ("failed", "x", "not_analysed")
    assert [(j.state, j.last_error) for j in row.jobs] == [("dead", "x")]
    assert len(row.deliveries) == 2


def test_a_commit_that_fails_half_way_leaves_nothing_behind(journal: Journal) -> None:
    receive(journal)
    work = claimed(journal)
    with pytest.raises(Transient):
        journal.commit(work, "a", SUMMARY, ("gcs", "gcs"), explain=True)  # the same key twice
    row = journal.study(KEY, 1)
    assert (row.state, row.deliveries, row.jobs[0].state) == ("complete", (), "running")


def test_a_delivery_ends_done_or_dead(journal: Journal) -> None:
    predicted(journal)
    django = journal.claim(Delivery, f"{JOB}-django", "a", 30)
    gcs = journal.claim(Delivery, f"{JOB}-gcs", "a", 30)
    assert journal.delivered(django, "a")
    assert journal.bury(gcs, "a", "answered 409")
    rows = {d.destination: d for d in journal.study(KEY, 1).deliveries}
    assert (rows["django"].state, rows["gcs"].state) == ("done", "dead")
    assert rows["gcs"].last_error == "answered 409"


# -- people ----------------------------------------------------------------------------------------


def test_a_dead_delivery_is_queued_again_with_its_attempts_from_0(
    journal: Journal, clock: Clock
) -> None:
    predicted(journal)
    key = f"{JOB}-gcs"
    journal.bury(journal.claim(Delivery, key, "a", 30), "a", "answered 409")
    clock.forward(3600)
    assert journal.retry(key)
    assert not journal.retry(key)
    again = journal.claim(Delivery, key, "a", 30)
    assert (again.attempts, again.created_at) == (1, clock.now)


def test_only_a_dead_delivery_is_retried(journal: Journal) -> None:
    predicted(journal)
    assert not journal.retry(f"{JOB}-gcs")
    assert not journal.retry(JOB)
    assert not journal.retry("nothing")


def test_a_replay_is_a_new_revision_with_the_instances_there_are(journal: Journal) -> None:
    predicted(journal)
    assert journal.replay(KEY) == 2
    row = journal.study(KEY, 2)
    assert (row.state, row.images, row.outcome) == ("complete", 3, None)
    assert claimed(journal, f"{KEY}-2-prediction").revision == 2


def test_a_study_that_is_unknown_or_incomplete_is_not_replayed(journal: Journal) -> None:
    assert journal.replay(KEY) is None
    journal.record([new_instance()])
    assert journal.replay(KEY) is None


# -- publishing ------------------------------------------------------------------------------------


def test_work_is_due_until_it_is_published_and_again_after_twice_the_wait(
    journal: Journal, clock: Clock
) -> None:
    receive(journal)
    (work,) = journal.due()
    waits = []
    for _ in range(9):
        journal.publishing(work, 60)
        before = clock.now
        while not journal.due():
            clock.forward(60)
        waits.append((clock.now - before).total_seconds() / 60)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_a_message_that_was_not_confirmed_is_no_publication(journal: Journal, clock: Clock) -> None:
    receive(journal)
    (work,) = journal.due()
    for _ in range(6):
        journal.publishing(work, 60)
        journal.unpublished(work, 2)
        assert journal.due() == []
        clock.forward(2)
        assert journal.due() == [work]
    journal.publishing(work, 60)
    clock.forward(60)
    assert journal.due() == [work]


def test_running_work_is_due_only_when_its_lease_has_ended(journal: Journal, clock: Clock) -> None:
    receive(journal)
    (work,) = journal.due()
    journal.publishing(work, 10)
    claimed(journal, lease_s=30)
    clock.forward(20)
    assert journal.due() == []
    clock.forward(11)
    assert [w.key for w in journal.due()] == [JOB]


def test_predictions_are_due_before_explanations_and_jobs_before_deliveries(
    journal: Journal,
) -> None:
    predicted(journal, explain=True)
    receive(journal, "1.2.3")
    assert [(type(w).__name__, w.phase) for w in journal.due()] == [
        ("Job", Phase.PREDICTION),
        ("Job", Phase.EXPLANATION),
        ("Delivery", Phase.PREDICTION),
        ("Delivery", Phase.PREDICTION),
    ]


def test_the_sweep_takes_no_more_than_asked_for(journal: Journal) -> None:
    for n in range(5):
        receive(journal, f"1.2.{n}", instances=1)
    assert len(journal.due(limit=2)) == 2


def test_the_longest_waiting_work_of_a_lane_is_next(journal: Journal, clock: Clock) -> None:
    assert journal.next_waiting(Phase.PREDICTION) is None
    receive(journal)
    clock.forward(1)
    receive(journal, "1.2.3")
    (first, *_) = journal.due()
    journal.publishing(first, 60)  # published or not does not matter
    waiting = journal.next_waiting(Phase.PREDICTION)
    assert waiting is not None
    assert waiting.key == JOB
    assert journal.next_waiting(Phase.EXPLANATION) is None
    assert journal.next_waiting("gcs") is None


def test_a_destination_is_a_lane_of_its_own_for_both_phases(journal: Journal) -> None:
    predicted(journal, explain=True)
    journal.commit(claimed(journal, f"{KEY}-1-explanation"), "a", SUMMARY, BOTH)
    journal.delivered(journal.claim(Delivery, f"{JOB}-gcs", "a", 30), "a")
    waiting = journal.next_waiting("gcs")
    assert isinstance(waiting, Delivery)
    assert (waiting.destination, waiting.phase) == ("gcs", Phase.EXPLANATION)


# -- reading ---------------------------------------------------------------------------------------


def test_queues_count_what_waits_runs_and_is_dead(journal: Journal, clock: Clock) -> None:
    assert journal.queues() == {}
    predicted(journal)
    receive(journal, "1.2.3")
    receive(journal, "1.2.4")
    claimed(journal, f"{key_of('1.2.4')}-1-prediction")
    journal.bury(journal.claim(Delivery, f"{JOB}-gcs", "a", 30), "a", "x")
    clock.forward(9)
    assert journal.queues() == {
        "prediction": {"queued": 1, "running": 1, "dead": 0, "oldest_s": 9.0},
        "django": {"queued": 1, "running": 0, "dead": 0, "oldest_s": 9.0},
        "gcs": {"queued": 0, "running": 0, "dead": 1, "oldest_s": 0.0},
    }


def test_a_study_is_found_by_its_key_its_beginning_or_its_uid(journal: Journal) -> None:
    receive(journal)
    receive(journal, "1.2.3")
    journal.replay(KEY)
    for text in (KEY, KEY[:8], STUDY_UID):
        assert [r.revision for r in journal.studies(text)] == [2, 1]
    assert [r.study_uid for r in journal.studies("1.2.3")] == ["1.2.3"]
    assert len(journal.studies()) == 3
    assert len(journal.studies(limit=1)) == 1


@pytest.mark.parametrize("text", ["%", "_", "1.2", "nothing", "'; DROP TABLE study; --"])
def test_a_pattern_is_no_prefix(journal: Journal, text: str) -> None:
    receive(journal)
    assert journal.studies(text) == []


def test_images_are_counted_once_per_instance(journal: Journal) -> None:
    journal.record([new_instance(1), new_instance(1, content="other"), new_instance(2)])
    assert journal.study(KEY, 1).images == 2


# -- the database ----------------------------------------------------------------------------------


def test_migrating_again_changes_nothing(journal: Journal) -> None:
    receive(journal)
    journal.migrate()
    journal.migrate()
    journal.check()
    assert len(journal.studies()) == 1


def test_the_migrations_make_the_tables_that_the_code_uses(journal: Journal) -> None:
    with journal._engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        found = compare_metadata(context, METADATA)
    assert found == []


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/journal.db"
    faults: Counter[str] = Counter()

    def start() -> None:
        journal = Journal(url)
        try:
            journal.migrate()
            journal.check()
        except Exception as exc:
            faults[repr(exc)] += 1
        finally:
            journal.close()

    threads = [threading.Thread(target=start) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_times_are_read_back_in_utc(journal: Journal) -> None:
    journal.record([new_instance()])
    assert journal.study(KEY, 1).received_at == START
    assert journal.instances(KEY, 1)[0].received_at.tzinfo is not None


def test_sqlite_keeps_a_commit_through_a_power_cut(sqlite_journal: Journal) -> None:
    with sqlite_journal._engine.connect() as db:
        assert db.scalar(sa.text("PRAGMA journal_mode")) == "wal"
        assert db.scalar(sa.text("PRAGMA synchronous")) == 2  # FULL


def test_a_locked_file_is_unreachable_for_now(
    sqlite_journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_TIMEOUT_S", 0.1)
    path = sqlite_journal.url.removeprefix("sqlite:///")
    impatient = Journal(sqlite_journal.url)
    other = sqlite3.connect(path)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="does not answer"):
            impatient.record([new_instance()])
        other.rollback()
        assert impatient.record([new_instance()])[0].new
    finally:
        other.close()
        impatient.close()


def test_a_server_that_is_away_is_unreachable_and_its_password_stays_ours() -> None:
    journal = Journal("postgresql+psycopg://limen:hunter2@127.0.0.1:1/limen")
    with pytest.raises(Unreachable) as caught:
        journal.check()
    journal.close()
    assert "hunter2" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


def test_a_file_that_is_no_journal_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database at all" * 100)
    journal = Journal(f"sqlite:///{tmp_path}/journal.db")
    with pytest.raises(Unreachable):
        journal.migrate()
    journal.close()
