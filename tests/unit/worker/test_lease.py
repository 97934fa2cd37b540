"""worker.lease: names of owners, the dead ones, and the heartbeat."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from limen.errors import Unreachable
from limen.journal import Job, Journal, host_name
from limen.uids import key_of
from tests.node import until
from tests.samples import STUDY_UID, Clock, new_instance
from worker.lease import Heartbeat, new_owner, release_the_dead

KEY = key_of(STUDY_UID)
JOB = f"{KEY}-1-prediction"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    """A journal with one study that waits for its prediction."""
    journal = Journal(f"sqlite:///{tmp_path}/journal.db", clock)
    journal.migrate()
    journal.record([new_instance()])
    journal.complete(KEY, 1)
    yield journal
    journal.close()


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_no_two_owners_have_the_same_name() -> None:
    assert len({new_owner() for _ in range(100)}) == 100
    assert new_owner().startswith(f"{host_name()}:{os.getpid()}:")


def test_what_a_dead_worker_of_this_host_ran_is_put_back(journal: Journal, dead_pid: int) -> None:
    journal.claim(Job, JOB, f"{host_name()}:{dead_pid}:abc", 3600)
    assert release_the_dead(journal) == 1
    assert [w.key for w in journal.due()] == [JOB]


@pytest.mark.parametrize("pid", [os.getpid(), 1])
def test_what_a_living_process_runs_is_left_alone(journal: Journal, pid: int) -> None:
    journal.claim(Job, JOB, f"{host_name()}:{pid}:abc", 3600)
    assert release_the_dead(journal) == 0
    assert journal.due() == []


def test_workers_of_other_hosts_are_left_to_their_leases(journal: Journal, dead_pid: int) -> None:
    journal.claim(Job, JOB, f"elsewhere:{dead_pid}:abc", 3600)
    assert release_the_dead(journal) == 0


def test_the_heartbeat_keeps_what_is_worked_on_and_nothing_else(
    journal: Journal, clock: Clock
) -> None:
    journal.claim(Job, JOB, "a", 10)
    held = [JOB]
    heartbeat = Heartbeat(journal, "a", 0.06, lambda: held)
    heartbeat.start()
    try:
        clock.forward(20)
        renewed = clock.now
        until(lambda: lease_end(journal) >= renewed.timestamp(), 10, "the renewal")
        held.clear()
        clock.forward(1)
        until(lambda: journal.claim(Job, JOB, "b", 10), 10, "another claim")
    finally:
        heartbeat.stop()


def lease_end(journal: Journal) -> float:
    from limen.journal import JOB as table

    with journal._engine.connect() as db:
        row = db.execute(table.select()).one()
    return float(row.lease_until.timestamp()) - 0.06


def test_the_heartbeat_outlives_a_journal_that_is_away(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[int] = []

    def renew(*_: object) -> None:
        beats.append(1)
        raise Unreachable("the journal is away")

    monkeypatch.setattr(journal, "renew", renew)
    heartbeat = Heartbeat(journal, "a", 0.03, list)
    with capture_logs() as logs:
        heartbeat.start()
        until(lambda: len(beats) > 3, 10, "more beats")
        heartbeat.stop()
        heartbeat._thread.join(5)
    assert not heartbeat._thread.is_alive()
    assert {x["event"] for x in logs} == {"lease.not_renewed"}
