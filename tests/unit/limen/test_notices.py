"""limen.notices: a webhook is told of each alarm twice, whatever is away or restarted meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from limen.errors import Unreachable
from limen.journal import Journal, WorkerSign
from limen.notices import Notices, notices_file
from limen.telemetry import METRICS
from tests.support.journals import predicted
from tests.support.ports import free_ports
from tests.support.samples import Clock, settings
from tests.support.webhooks import Receiver, secret_file, webhooks

SIGN = WorkerSign("w", "host", "1", ("prediction", "explanation", "django", "archive"))
NO_WORKER = ("missing", "worker")


class Told:
    """A receiver's notices, with a clock that moves when a test says so."""

    def __init__(self, folder: Path, journal: Journal, url: str, **alarm: object) -> None:
        path = secret_file(folder)
        self.config = settings(folder, alarm={"webhook": url, "secret_file": path, **alarm})
        self.config.data_dir.mkdir(exist_ok=True)
        self.journal = journal
        self.now_s = 0.0
        self.restart()

    def restart(self) -> None:
        """End, and begin anew."""
        self.notices = Notices(self.config, self.journal, lambda: self.now_s)

    def after(self, seconds: float) -> None:
        """Let time pass, then go a round; whoever is away is."""
        self.now_s += seconds
        with contextlib.suppress(Unreachable):
            self.notices.round()


def said(server: Receiver) -> list[tuple[str, str, str]]:
    return [(b["type"], b["data"]["kind"], b["data"]["about"]) for _, b in server.took]


RAISED, CLEARED = ("alarm.raised", *NO_WORKER), ("alarm.cleared", *NO_WORKER)


@pytest.fixture
def server() -> Iterator[Receiver]:
    with webhooks() as receiver:
        yield receiver


@pytest.fixture
def told(tmp_path: Path, sqlite_journal: Journal, server: Receiver) -> Told:
    return Told(tmp_path, sqlite_journal, server.url)


def test_an_alarm_is_told_once_when_it_is_raised_and_once_when_it_is_cleared(
    told: Told, server: Receiver, sqlite_journal: Journal
) -> None:
    for _ in range(20):
        told.after(5)
    assert said(server) == [RAISED]
    sqlite_journal.workers.seen(SIGN, 30.0)
    for _ in range(20):
        told.after(5)
    assert said(server) == [RAISED, CLEARED]
    ids = [message_id for message_id, _ in server.took]
    assert len(set(ids)) == 2
    data = server.took[0][1]["data"]
    assert data["node"] == "limen"
    assert "limen worker" in data["text"]
    assert server.took[1][1]["data"]["raised_at"] == data["raised_at"]


def test_what_comes_and_goes_tells_nobody(
    told: Told, server: Receiver, sqlite_journal: Journal
) -> None:
    told.after(0)
    told.after(29)
    sqlite_journal.workers.seen(SIGN, 30.0)
    told.after(5)
    sqlite_journal.workers.gone(SIGN.id)
    told.after(29)
    assert server.asked == []
    told.after(30)
    sqlite_journal.workers.seen(SIGN, 30.0)
    told.after(29)
    sqlite_journal.workers.gone(SIGN.id)
    told.after(40)
    assert said(server) == [RAISED]


def test_a_restart_repeats_nothing_and_forgets_nothing(
    told: Told, server: Receiver, sqlite_journal: Journal
) -> None:
    told.after(0)
    told.after(30)
    assert said(server) == [RAISED]
    told.restart()
    for _ in range(10):
        told.after(30)
    assert said(server) == [RAISED]
    sqlite_journal.workers.seen(SIGN, 30.0)
    told.restart()
    told.after(0)
    told.after(30)
    assert said(server) == [RAISED, CLEARED]


def test_a_webhook_that_was_away_is_told_in_order_and_asked_ever_less_often(
    told: Told, server: Receiver, sqlite_journal: Journal
) -> None:
    server.status = 503
    for _ in range(80):  # an hour
        told.after(45)
    assert 5 <= len(server.asked) <= 15
    sqlite_journal.workers.seen(SIGN, 30.0)
    for _ in range(20):
        told.after(5)
    told.restart()
    server.status = 204
    told.after(0)
    assert said(server) == [RAISED, CLEARED]
    assert len(set(server.asked)) == 2  # each try of a notice has the same id


def test_who_asks_to_wait_is_not_asked_before(told: Told, server: Receiver) -> None:
    server.status, server.headers = 429, {"Retry-After": "600"}
    told.after(0)
    told.after(30)
    server.status = 204
    told.after(599)
    assert len(server.asked) == 1
    told.after(1)
    assert said(server) == [RAISED]


def test_what_a_webhook_refuses_holds_up_nothing_else(
    told: Told, server: Receiver, sqlite_journal: Journal
) -> None:
    server.script = [422]
    told.after(0)
    told.after(30)
    sqlite_journal.workers.seen(SIGN, 30.0)
    told.after(0)
    told.after(30)
    assert said(server) == [CLEARED]


def test_many_alarms_while_nobody_is_there_take_no_room_without_end(
    tmp_path: Path, sqlite_journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limen.notices._MOST_WAITING", 5)
    (port,) = free_ports(1)
    told = Told(tmp_path, sqlite_journal, f"http://127.0.0.1:{port}/", after_s=0)
    dropped = METRICS.notices.labels("dropped")
    before = dropped._value.get()
    told.notices._next_s = 1e9  # nobody is asked: this is about room
    for _ in range(4):
        told.notices.round()
        sqlite_journal.workers.seen(SIGN, 1e6)
        told.notices.round()
        sqlite_journal.workers.gone(SIGN.id)
    assert dropped._value.get() - before == 8 - 5
    kept = json.loads(notices_file(told.config.data_dir).read_text())
    assert [one["type"] for one in kept["waiting"]][-2:] == ["alarm.raised", "alarm.cleared"]
    assert len(kept["waiting"]) == 5


def test_while_the_journal_is_away_that_is_told_and_nothing_is_taken_for_well(
    told: Told, server: Receiver, sqlite_journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.after(0)
    told.after(30)

    def away() -> None:
        raise Unreachable("the journal does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_journal.status, "queues", away)
        for _ in range(10):
            told.after(30)
    assert said(server) == [RAISED, ("alarm.raised", "journal", "journal")]
    told.after(0)
    told.after(30)
    assert said(server)[2:] == [("alarm.cleared", "journal", "journal")]


def test_a_disk_that_takes_nothing_silences_no_alarm(
    told: Told, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("limen.notices.write_new", full)
    told.after(0)
    told.after(30)
    told.after(30)
    assert said(server) == [RAISED]


def test_a_file_that_is_damaged_costs_a_repetition_and_no_alarm(
    told: Told, server: Receiver
) -> None:
    told.after(0)
    told.after(30)
    notices_file(told.config.data_dir).write_text("{")
    told.restart()
    told.after(0)
    told.after(30)
    assert said(server) == [RAISED, RAISED]


def test_nothing_of_a_patient_is_told(
    told: Told, server: Receiver, sqlite_journal: Journal, clock: Clock
) -> None:
    predicted(sqlite_journal)
    clock.forward(3600)
    told.after(0)
    told.after(30)
    assert len(server.took) > 2
    text = json.dumps(server.took)
    for private in ("1.2.826.0.1.3680043.10.1.1", "Doe", "P-4711"):
        assert private not in text
