"""limen.dispatch: due work is published, once, and again when that led to nothing."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from limen.broker import make_app
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import Unreachable
from limen.journal import Delivery, Job, Journal, Shadow
from limen.result import Phase
from limen.uids import key_of
from tests.support.node import until
from tests.support.samples import START, STUDY_UID, SUMMARY, Clock, new_instance, settings

KEY = key_of(STUDY_UID)
NOBODY = "amqp://limen:hunter2@127.0.0.1:1/limen"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path, queue={"republish_s": 60.0})


@pytest.fixture
def dispatcher(config: Config, sqlite_journal: Journal) -> Dispatcher:
    return Dispatcher(config, sqlite_journal, make_app(config))


def messages(config: Config) -> list[tuple[str, list[Any]]]:
    """(queue, arguments) of every message that waits, oldest first."""
    found = []
    for path in sorted((config.data_dir / "queue" / "messages").glob("*.msg")):
        body = json.loads(path.read_text("utf-8"))["body"]
        queue = path.name.split(".", 1)[1].removesuffix(".msg")
        found.append((queue, json.loads(b64decode(body))[0]))
    return found


def receive(journal: Journal, study_uid: str = STUDY_UID) -> None:
    journal.receiving.record([new_instance(1, study_uid)])
    journal.receiving.complete(key_of(study_uid), 1)


def test_due_work_is_published_once(
    config: Config, sqlite_journal: Journal, dispatcher: Dispatcher
) -> None:
    receive(sqlite_journal)
    assert [dispatcher.sweep() for _ in range(3)] == [1, 0, 0]
    assert messages(config) == [("limen.predict", [f"{KEY}-1-prediction", "prediction"])]


def test_work_that_led_to_nothing_is_published_again(
    config: Config, sqlite_journal: Journal, dispatcher: Dispatcher, clock: Clock
) -> None:
    receive(sqlite_journal)
    dispatcher.sweep()
    clock.forward(59)
    assert dispatcher.sweep() == 0
    clock.forward(2)
    assert dispatcher.sweep() == 1
    clock.forward(61)
    assert dispatcher.sweep() == 0  # the second wait is twice as long
    clock.forward(60)
    assert dispatcher.sweep() == 1
    assert len(messages(config)) == 3


def test_every_kind_of_work_goes_to_its_queue(
    config: Config, sqlite_journal: Journal, dispatcher: Dispatcher
) -> None:
    receive(sqlite_journal)
    job = sqlite_journal.work.claim(Job, f"{KEY}-1-prediction", "a", 30)
    sqlite_journal.work.commit(job, "a", SUMMARY, ["django"], explain=True)
    dispatcher.sweep()
    assert messages(config) == [
        ("limen.explain", [f"{KEY}-1-explanation", "explanation"]),
        ("limen.deliver", [f"{KEY}-1-prediction-django", "django"]),
    ]


def test_a_lane_is_a_phase_a_destination_or_that_of_shadows() -> None:
    common = ("key", KEY, 1, Phase.EXPLANATION, 1, 0, START, 0, START)
    assert Job(*common).lane == "explanation"
    assert Delivery(*common, "archive", "", "", False).lane == "archive"
    assert Shadow(*common, "try").lane == "shadow"


def test_a_broker_that_is_away_leaves_the_work_due(
    tmp_path: Path, sqlite_journal: Journal, clock: Clock
) -> None:
    config = settings(tmp_path, queue={"broker": NOBODY, "confirm_timeout_s": 1.0})
    dispatcher = Dispatcher(config, sqlite_journal, make_app(config))
    receive(sqlite_journal)
    with pytest.raises(Unreachable, match="broker") as caught:
        dispatcher.sweep()
    assert "hunter2" not in str(caught.value)
    clock.forward(3)
    assert [w.key for w in sqlite_journal.publishing.due()] == [f"{KEY}-1-prediction"]


def test_a_disk_that_takes_no_message_leaves_the_work_due(
    config: Config, sqlite_journal: Journal, dispatcher: Dispatcher, clock: Clock
) -> None:
    receive(sqlite_journal)
    folder = config.data_dir / "queue" / "messages"
    folder.rmdir()
    with pytest.raises(Unreachable):
        dispatcher.sweep()
    folder.mkdir()
    clock.forward(3)
    assert dispatcher.sweep() == 1


def test_the_thread_publishes_what_it_is_rung_for(tmp_path: Path, sqlite_journal: Journal) -> None:
    config = settings(tmp_path, queue={"dispatch_s": 600.0})
    dispatcher = Dispatcher(config, sqlite_journal, make_app(config))
    dispatcher.start()
    try:
        receive(sqlite_journal)
        dispatcher.ring()
        until(lambda: messages(config), 10, "the message")
    finally:
        dispatcher.stop()
    assert not dispatcher._rounds.alive


def test_the_thread_outlives_an_outage_and_says_so_once(
    config: Config,
    sqlite_journal: Journal,
    dispatcher: Dispatcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = []
    real: Callable[..., Any] = sqlite_journal.publishing.due

    def due() -> Any:
        rounds.append(1)
        if len(rounds) <= 3:
            raise (Unreachable("the journal is away") if len(rounds) < 3 else RuntimeError("bug"))
        return real()

    monkeypatch.setattr(sqlite_journal.publishing, "due", due)
    receive(sqlite_journal)
    with capture_logs() as logs:
        dispatcher.start()
        try:
            until(lambda: messages(config), 10, "the message")
            until(lambda: len(logs) > 1, 10, "the second line")
        finally:
            dispatcher.stop()
    assert [line["event"] for line in logs] == ["rounds.failing", "rounds.recovered"]
