"""limen.journal.status: what people are told."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from limen import selftest
from limen.errors import Permanent
from limen.journal import Delivery, Journal, Lane
from limen.uids import key_of
from tests.support.journals import (
    KEY,
    PREDICTION,
    claimed,
    predicted,
    receive,
)
from tests.support.samples import STUDY_UID, Clock, new_instance


def test_what_has_no_result_yet_is_not_looked_for_among_all_studies(
    sqlite_journal: Journal,
) -> None:
    receive(sqlite_journal)
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        asked.append((statement, values))

    engine = sqlite_journal.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    assert sqlite_journal.status.awaited(10)[1] == 1
    plans = [
        row[3]
        for statement, values in asked
        if statement.startswith("SELECT")
        for row in _plan(engine, statement, values)
    ]
    assert plans
    assert not [step for step in plans if step.startswith("SCAN study")]


def _plan(engine: sa.Engine, statement: str, values: Any) -> list[Any]:
    with closing(engine.raw_connection()) as raw:
        return raw.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()


def test_queues_count_what_waits_runs_and_is_dead(journal: Journal, clock: Clock) -> None:
    assert journal.status.queues() == {}
    predicted(journal)
    receive(journal, "1.2.3")
    receive(journal, "1.2.4")
    claimed(journal, f"{key_of('1.2.4')}-1-prediction")
    journal.work.bury(journal.work.claim(Delivery, f"{PREDICTION}-archive", "a", 30), "a", "x")
    clock.forward(9)
    assert journal.status.queues() == {
        "prediction": Lane(queued=1, running=1, dead=0, oldest_s=9.0, unsent_s=9.0),
        "django": Lane(queued=1, oldest_s=9.0, unsent_s=9.0),
        "archive": Lane(dead=1),
    }


def test_a_study_is_found_by_its_key_its_beginning_or_its_uid(journal: Journal) -> None:
    receive(journal)
    receive(journal, "1.2.3")
    journal.receiving.replay(KEY)
    for text in (KEY, KEY[:8], STUDY_UID):
        assert [r.revision for r in journal.status.studies(text)] == [2, 1]
    assert [r.study_uid for r in journal.status.studies("1.2.3")] == ["1.2.3"]
    assert len(journal.status.studies()) == 3
    assert len(journal.status.studies(limit=1)) == 1


@pytest.mark.parametrize("text", ["%", "_", "1.2", "nothing", "'; DROP TABLE study; --"])
def test_a_pattern_is_no_prefix(journal: Journal, text: str) -> None:
    receive(journal)
    assert journal.status.studies(text) == []


def test_every_content_that_was_kept_is_counted_also_under_the_same_uid(journal: Journal) -> None:
    journal.receiving.record([new_instance(1), new_instance(1, content="other"), new_instance(2)])
    assert journal.status.study(KEY, 1).instances == 3


def test_a_study_is_asked_for_by_revision(journal: Journal) -> None:
    with pytest.raises(Permanent, match="no revision 7"):
        journal.status.study(KEY, 7)


def test_studies_are_read_in_as_many_questions_however_many_there_are(journal: Journal) -> None:
    def questions() -> int:
        asked: list[str] = []

        def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        engine = journal.database.engine
        sa.event.listen(engine, "before_cursor_execute", note)
        journal.status.studies()
        sa.event.remove(engine, "before_cursor_execute", note)
        return len([s for s in asked if s.startswith("SELECT")])

    predicted(journal)
    few = questions()
    for n in range(20):
        receive(journal, f"1.2.{n}")
    assert questions() == few
    assert len(journal.status.studies()) == 21


def test_work_is_listed_with_the_revision_it_belongs_to(journal: Journal) -> None:
    predicted(journal)
    journal.receiving.replay(KEY)
    second, first = journal.status.studies(KEY)
    assert [j.key for j in second.jobs] == [f"{KEY}-2-prediction"]
    assert second.deliveries == ()
    assert [j.key for j in first.jobs] == [PREDICTION]
    assert [d.destination for d in first.deliveries] == ["archive", "django"]


def test_who_asks_waits_for_no_writer(sqlite_journal: Journal) -> None:
    receive(sqlite_journal)
    with sqlite_journal.database.writing() as db:
        db.execute(sa.text("UPDATE study SET reason = 'x'"))
        began = time.monotonic()
        other = Journal(sqlite_journal.url)
        assert other.status.studies()[0].reason == ""
        assert other.publishing.due()
        other.close()
        assert time.monotonic() - began < 5


def test_a_study_is_awaited_until_its_prediction_is_where_people_read_it(journal: Journal) -> None:
    def awaited() -> list[tuple[str, int, str, str | None]]:
        found, total = journal.status.awaited(10)
        assert total == len(found)
        return [(one.study_uid, one.revision, one.state, one.outcome) for one in found]

    assert awaited() == []
    journal.receiving.record([new_instance(1)])
    assert awaited() == [(STUDY_UID, 1, "receiving", None)]
    predicted(journal)
    outcome = journal.status.study(KEY, 1).outcome
    assert awaited() == [(STUDY_UID, 1, journal.status.study(KEY, 1).state, outcome)]
    delivery = journal.work.claim(Delivery, f"{PREDICTION}-django", "a", 30)
    assert delivery is not None
    journal.work.delivered(delivery, "a")
    assert awaited() == []
    journal.receiving.replay(KEY)
    assert [one[1:3] for one in awaited()] == [(2, "complete")]


def test_no_more_studies_are_awaited_than_asked_for_but_all_are_counted(journal: Journal) -> None:
    for n in range(3):
        receive(journal, f"1.2.{n}")
    receive(journal, selftest.new_uid())
    found, total = journal.status.awaited(2)
    assert (len(found), total) == (2, 3)
