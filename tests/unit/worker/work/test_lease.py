"""worker.work.lease: names, locks, the dead of this host, and the signs of life."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from limen.errors import Unreachable
from limen.journal import Job, Journal, WorkerSign
from limen.journal.tables import JOB
from tests.support.journals import PREDICTION, receive
from tests.support.node import until
from tests.support.samples import Clock
from worker.work import lease
from worker.work.lease import Heartbeat, Presence

WORKER = """
import sys, time
from pathlib import Path
from worker.work.lease import Presence
presence = Presence(Path(sys.argv[1]))
print(presence.owner, flush=True)
time.sleep(600)
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Iterator[Journal]:
    """A journal with one study that waits for its prediction."""
    journal = Journal(f"sqlite:///{tmp_path}/journal.db", clock)
    journal.migrate()
    receive(journal)
    yield journal
    journal.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "workers"


@pytest.fixture
def other(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another worker of this host, and its name."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.wait()
    process.stdout.close()


def sign(presence: Presence) -> WorkerSign:
    return WorkerSign(presence.owner, "host", "0", ("prediction",))


def test_no_two_workers_have_the_same_name(folder: Path) -> None:
    names = set()
    for _ in range(20):
        presence = Presence(folder)
        names.add(presence.owner)
        presence.leave()
    assert len(names) == 20
    assert not any(str(os.getpid()) == name for name in names)


def test_what_a_dead_worker_of_this_host_ran_is_put_back_and_counts_as_lost(
    journal: Journal, folder: Path, other: tuple[subprocess.Popen[str], str]
) -> None:
    process, owner = other
    mine = Presence(folder)
    assert journal.work.claim(Job, PREDICTION, owner, 3600)
    journal.workers.seen(WorkerSign(owner, "host", "0", ("prediction",)), 30)
    assert mine.release_the_dead(journal) == 0
    assert journal.publishing.due() == []
    process.send_signal(signal.SIGKILL)
    process.wait()
    with capture_logs() as logs:
        assert mine.release_the_dead(journal) == 1
        assert mine.release_the_dead(journal) == 0
    assert [x["event"] for x in logs] == ["lease.released"]
    assert [w.losses for w in journal.publishing.due()] == [1]
    assert journal.status.workers() == []
    mine.leave()


def test_a_worker_that_leaves_is_nobody_to_look_after(journal: Journal, folder: Path) -> None:
    one, two = Presence(folder), Presence(folder)
    assert two.release_the_dead(journal) == 0
    one.leave()
    one.leave()
    assert journal.work.claim(Job, PREDICTION, one.owner, 3600)
    assert two.release_the_dead(journal) == 0
    two.leave()


def test_the_locks_of_another_start_of_the_machine_say_nothing(
    journal: Journal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host, or this one before it was started again: its leases end by themselves."""
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(lease, "_BOOT", boot)
    elsewhere = Presence(folder)
    monkeypatch.undo()
    os.close(elsewhere._file)
    mine = Presence(folder)
    assert journal.work.claim(Job, PREDICTION, elsewhere.owner, 3600)
    assert mine.release_the_dead(journal) == 0
    mine.leave()


def test_a_journal_that_is_away_leaves_the_dead_for_the_next_time(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, mine = Presence(folder), Presence(folder)
    os.close(dead._file)
    assert journal.work.claim(Job, PREDICTION, dead.owner, 3600)

    def away(*_: object) -> int:
        raise Unreachable("the journal is away")

    monkeypatch.setattr(journal.work, "release_dead", away)
    with pytest.raises(Unreachable):
        mine.release_the_dead(journal)
    monkeypatch.undo()
    with capture_logs():
        assert mine.release_the_dead(journal) == 1
    mine.leave()


def test_without_a_place_for_locks_a_worker_works_all_the_same(
    journal: Journal, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with capture_logs() as logs:
        presence = Presence(tmp_path / "file" / "workers")
    assert [x["event"] for x in logs] == ["lease.no_lock"]
    assert presence.release_the_dead(journal) == 0
    presence.leave()


def test_the_heartbeat_keeps_what_is_worked_on_and_nothing_else(
    journal: Journal, folder: Path, clock: Clock
) -> None:
    presence = Presence(folder)
    journal.work.claim(Job, PREDICTION, presence.owner, 10)
    held = [PREDICTION]
    heartbeat = Heartbeat(journal, presence, sign(presence), 0.06, lambda: held)
    heartbeat.start()
    try:
        clock.forward(20)
        renewed = clock.now
        until(lambda: lease_end(journal) >= renewed.timestamp(), 10, "the renewal")
        held.clear()
        clock.forward(1)
        until(lambda: journal.work.claim(Job, PREDICTION, "b", 10), 10, "another claim")
    finally:
        heartbeat.stop()
        presence.leave()


def lease_end(journal: Journal) -> float:
    with journal.database.engine.connect() as db:
        row = db.execute(JOB.select()).one()
    return float(row.lease_until.timestamp()) - 0.06


def test_a_heartbeat_is_a_sign_of_life_and_looks_after_the_dead(
    journal: Journal, folder: Path
) -> None:
    dead, presence = Presence(folder), Presence(folder)
    os.close(dead._file)
    journal.work.claim(Job, PREDICTION, dead.owner, 3600)
    heartbeat = Heartbeat(journal, presence, sign(presence), 30, list)
    with capture_logs():
        heartbeat.start()
        try:
            until(journal.publishing.due, 10, "the work of the dead")
        finally:
            heartbeat.stop()
            presence.leave()
    assert [w.id for w in journal.status.workers()] == [presence.owner]


@pytest.mark.parametrize("fault", [Unreachable("the journal is away"), RuntimeError("bug")])
def test_the_heartbeat_outlives_a_journal_that_is_away(
    journal: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    beats: list[int] = []

    def renew(*_: object) -> None:
        beats.append(1)
        raise fault

    monkeypatch.setattr(journal.work, "renew", renew)
    presence = Presence(folder)
    heartbeat = Heartbeat(journal, presence, sign(presence), 0.03, list)
    with capture_logs() as logs:
        heartbeat.start()
        until(lambda: len(beats) > 3, 10, "more beats")
        heartbeat.stop()
    presence.leave()
    assert not heartbeat._rounds.alive
    assert [x["event"] for x in logs] == ["rounds.failing"]
