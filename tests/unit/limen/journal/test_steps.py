"""limen.journal.steps: a clock that is set moves every timer of a journal on SQLite, once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from limen.journal import Delivery, Job, Journal
from limen.journal.database import utc_now
from limen.journal.tables import JOB
from tests.support.journals import PREDICTION, receive
from tests.support.samples import SUMMARY, new_instance

TWO_DAYS_S = 2 * 86400.0
BOTH_WAYS = pytest.mark.parametrize("step_s", [-TWO_DAYS_S, -3600.0, TWO_DAYS_S])


class Host:
    """Processes of one host: its clock can be set, and that of a test goes on."""

    def __init__(self, path: Path) -> None:
        self.off_s = 0.0
        self._url = f"sqlite:///{path}/journal.db"

    def process(self) -> Journal:
        journal = Journal(self._url, host_clock=lambda: utc_now() + timedelta(seconds=self.off_s))
        journal.migrate()
        return journal


def waits_s(journal: Journal) -> float:
    """Return for how long the prediction is put off."""
    with journal.database.reading() as db:
        due = db.execute(sa.select(JOB.c.due_at)).scalar_one()
        return (due - journal.database.now(db)).total_seconds()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@BOTH_WAYS
def test_what_is_due_stays_due(host: Host, step_s: float) -> None:
    receiver, worker = host.process(), host.process()
    receive(receiver)
    host.off_s = step_s
    assert [w.key for w in worker.publishing.due()] == [PREDICTION]
    assert worker.work.claim(Job, PREDICTION, "a", 30)


@BOTH_WAYS
def test_what_is_put_off_stays_put_off_for_as_long(host: Host, step_s: float) -> None:
    journal = host.process()
    receive(journal)
    work = journal.work.claim(Job, PREDICTION, "a", 30)
    assert work is not None
    assert journal.work.postpone(work, "a", 60, "away")
    host.off_s = step_s
    assert journal.work.claim(Job, PREDICTION, "a", 30) is None
    host.off_s = step_s + 1.9  # no step: time goes on as it does
    assert journal.publishing.due() == []
    assert 30 < waits_s(journal) < 60


@BOTH_WAYS
def test_a_lease_neither_ends_nor_lasts_longer(host: Host, step_s: float) -> None:
    mine, other = host.process(), host.process()
    receive(mine)
    assert mine.work.claim(Job, PREDICTION, "mine", 30)
    host.off_s = step_s
    assert other.publishing.due() == []
    assert other.work.claim(Job, PREDICTION, "other", 30) is None
    assert not other.status.workers()
    mine.work.renew("mine", 1.0, [PREDICTION])
    host.off_s = step_s + 1.5
    assert other.work.claim(Job, PREDICTION, "other", 30)


@BOTH_WAYS
def test_several_processes_move_the_timers_once(host: Host, step_s: float) -> None:
    processes = [host.process() for _ in range(3)]
    receive(processes[0])
    work = processes[0].work.claim(Job, PREDICTION, "a", 30)
    assert work is not None
    assert processes[0].work.postpone(work, "a", 60, "away")
    host.off_s = step_s
    with capture_logs() as logs:
        for process in processes:
            assert process.work.claim(Job, PREDICTION, "a", 30) is None
            assert 30 < waits_s(process) <= 60
    assert [(x["event"], round(x["seconds"])) for x in logs] == [("clock.set", round(step_s))]


def test_a_step_while_nobody_runs_is_found_at_the_next_start(host: Host) -> None:
    receive(before := host.process())
    before.close()
    host.off_s = -TWO_DAYS_S
    assert [w.key for w in host.process().publishing.due()] == [PREDICTION]


def test_what_came_before_a_step_back_goes_before_what_came_after(host: Host) -> None:
    journal = host.process()
    receive(journal)
    host.off_s = -TWO_DAYS_S
    journal.receiving.record([new_instance(study_uid="1.2.3.9")])
    after = receive(journal, "1.2.3.9")
    assert [w.key for w in journal.publishing.due()] == [PREDICTION, f"{after}-1-prediction"]


def test_a_probe_of_a_destination_that_is_away_goes_when_it_was_to_go(host: Host) -> None:
    journal = host.process()
    receive(journal)
    job = journal.work.claim(Job, PREDICTION, "a", 30)
    assert job is not None
    assert journal.work.commit(job, "a", SUMMARY, ("archive",))
    key = f"{PREDICTION}-archive"
    delivery = journal.work.claim(Delivery, key, "a", 30)
    assert delivery is not None
    assert journal.work.postpone_until_there(delivery, "a", 1, "away", probe_s=(1.0, 1.0))
    host.off_s = -TWO_DAYS_S
    assert journal.work.claim(Delivery, key, "a", 30) is None
    host.off_s += 1.5
    assert journal.work.claim(Delivery, key, "a", 30)


def test_another_start_of_the_host_moves_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long it was off nobody knows: its clock is the best there is."""
    receive(host.process())
    monkeypatch.setattr("limen.journal.steps._host", lambda: "another start")
    host.off_s = TWO_DAYS_S
    with capture_logs() as logs:
        assert host.process().work.claim(Job, PREDICTION, "a", 30)
    assert logs == []
