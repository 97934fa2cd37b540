"""limen.journal.database: one clock decides, however far the clocks of two hosts are apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from limen.config import Queue
from limen.journal import Job, Journal
from limen.journal.database import utc_now
from limen.journal.tables import METADATA
from tests.support.journals import KEY, PREDICTION, receive
from tests.support.samples import SUMMARY, new_instance

QUEUE = Queue()


def host(url: str, off_s: float) -> Journal:
    """The journal as a host sees it whose clock is ``off_s`` ahead."""
    return Journal(url, host_clock=lambda: utc_now() + timedelta(seconds=off_s))


@pytest.fixture(params=[-90.0, 90.0])
def hosts(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[tuple[Journal, Journal]]:
    """Two hosts; the clock of the second is off."""
    pair = host(postgres_url, 0.0), host(postgres_url, request.param)
    yield pair
    with pair[0].database.engine.begin() as db:
        for table in METADATA.tables.values():
            db.execute(table.delete())
    for journal in pair:
        journal.close()


def test_a_lease_holds_for_both(hosts: tuple[Journal, Journal]) -> None:
    right, off = hosts
    receive(right)
    for mine, other in (hosts, hosts[::-1]):
        assert mine.work.claim(Job, PREDICTION, "mine", QUEUE.lease_s)
        assert other.work.claim(Job, PREDICTION, "other", QUEUE.lease_s) is None
        assert other.publishing.due() == mine.publishing.due() == []
        mine.work.renew("mine", QUEUE.lease_s, [PREDICTION])
        assert other.work.claim(Job, PREDICTION, "other", QUEUE.lease_s) is None
        assert mine.work.release("mine") == 1
        assert [w.key for w in other.publishing.due()] == [PREDICTION]
    assert right.status.study(KEY, 1).state == "complete"
    assert off.status.queues()["prediction"].queued == 1


def test_what_is_put_off_is_due_for_both_at_the_same_time(hosts: tuple[Journal, Journal]) -> None:
    receive(hosts[0])
    for mine, other in (hosts, hosts[::-1]):
        work = mine.work.claim(Job, PREDICTION, "mine", QUEUE.lease_s)
        assert work is not None
        assert mine.work.postpone(work, "mine", 60, "away")
        assert other.work.claim(Job, PREDICTION, "other", QUEUE.lease_s) is None
        assert other.publishing.waiting("prediction") == []
        with mine.database.engine.begin() as db:
            db.execute(sa.text("UPDATE job SET due_at = due_at - interval '60 s'"))
        assert len(other.publishing.waiting("prediction")) == 1


def test_every_time_that_is_written_is_that_of_the_database(hosts: tuple[Journal, Journal]) -> None:
    _, off = hosts
    host_now = off.database._host_clock()
    off.receiving.record([new_instance(at=host_now)])
    off.receiving.complete(KEY, 1)
    job = off.work.claim(Job, PREDICTION, "a", QUEUE.lease_s)
    assert job is not None
    assert off.work.commit(job, "a", SUMMARY, [])
    row = off.status.study(KEY, 1)
    for at in (row.received_at, row.last_instance_at, row.complete_at, row.predicted_at):
        assert at is not None
        assert abs((at - utc_now()).total_seconds()) < 30
    assert abs((off.clock() - utc_now()).total_seconds()) < 30


def test_a_host_whose_clock_is_off_is_told_once_and_again_when_it_is_right(
    postgres_url: str,
) -> None:
    off_s = [90.0]
    journal = Journal(postgres_url, host_clock=lambda: utc_now() + timedelta(seconds=off_s[0]))
    with capture_logs() as logs:
        for _ in range(3):
            journal.clock()
        assert round(journal.database.clock_off_s) == 90
        off_s[0] = 0.0
        for _ in range(3):
            journal.clock()
    journal.close()
    assert [(x["event"], x["log_level"]) for x in logs] == [
        ("clock.off", "warning"),
        ("clock.right", "info"),
    ]
    assert round(logs[0]["seconds"]) == 90


def test_on_sqlite_the_clock_of_the_host_decides(sqlite_journal: Journal) -> None:
    journal = Journal(sqlite_journal.url)
    assert abs((journal.clock() - utc_now()).total_seconds()) < 30
    journal.close()
