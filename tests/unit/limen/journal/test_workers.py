"""limen.journal.workers: signs of life, and what people are told of them."""

from __future__ import annotations

from dataclasses import replace

from limen.config import Queue
from limen.journal import Journal, WorkerSign
from tests.support.samples import START, Clock

LEASE_S = Queue().lease_s
ONE = WorkerSign("1" * 32, "host-a", "0.1.0", ("prediction", "explanation", "django"))


def test_a_worker_is_listed_with_its_age_until_it_is_gone(journal: Journal, clock: Clock) -> None:
    assert journal.status.workers() == []
    journal.workers.seen(ONE, LEASE_S)
    clock.forward(12)
    (row,) = journal.status.workers()
    assert (row.id, row.host, row.version, row.lanes) == (ONE.id, "host-a", "0.1.0", ONE.lanes)
    assert (row.started_at, row.seen_s, row.late, row.clock_off_s) == (START, 12.0, False, 0.0)
    journal.workers.gone(ONE.id)
    assert journal.status.workers() == []


def test_a_worker_that_gives_no_sign_is_late_and_then_forgotten(
    journal: Journal, clock: Clock
) -> None:
    journal.workers.seen(ONE, LEASE_S)
    clock.forward(LEASE_S + 1)
    assert [w.late for w in journal.status.workers()] == [True]
    two = replace(ONE, id="2" * 32)
    journal.workers.seen(two, LEASE_S)
    assert [(w.id, w.late) for w in journal.status.workers()] == [(ONE.id, True), (two.id, False)]
    clock.forward(3600)
    journal.workers.seen(two, LEASE_S)
    assert [(w.id, w.late) for w in journal.status.workers()] == [(two.id, False)]


def test_a_sign_of_life_keeps_when_the_worker_started(journal: Journal, clock: Clock) -> None:
    for _ in range(3):
        journal.workers.seen(ONE, LEASE_S)
        clock.forward(10)
    (row,) = journal.status.workers()
    assert (row.started_at, row.seen_s) == (START, 10.0)


def test_a_host_whose_clock_is_off_says_by_how_much(journal: Journal) -> None:
    journal.database.clock_off_s = -90.04
    journal.workers.seen(ONE, LEASE_S)
    assert journal.status.workers()[0].clock_off_s == -90.0
