"""limen.broker: queues, settings, and whole messages on the file system."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from limen.broker import LANE_TASKS, declare_dead_letters, make_app, queue_names
from limen.result import Phase
from tests.support.samples import settings

AMQP = {"broker": "amqp://limen:secret@127.0.0.1:1/limen"}


@pytest.fixture(params=["filesystem://", AMQP["broker"]])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Celery:
    """The app for either broker."""
    return make_app(settings(tmp_path, queue={"broker": request.param, "prefix": "site1"}))


def test_every_task_has_a_queue_of_its_own(tmp_path: Path) -> None:
    assert queue_names(settings(tmp_path, queue={"prefix": "site1"})) == {
        "predict": "site1.predict",
        "explain": "site1.explain",
        "deliver": "site1.deliver",
    }
    jobs = {Phase.PREDICTION.value: "predict", Phase.EXPLANATION.value: "explain"}
    assert jobs | {"shadow": "predict"} == LANE_TASKS


def test_a_silent_worker_is_cut_off_by_the_broker_before_its_leases_end(tmp_path: Path) -> None:
    for lease_s, heartbeat_s in ((30, 10), (10, 3), (1, 2)):
        app = make_app(settings(tmp_path, queue={**AMQP, "lease_s": lease_s}))
        assert app.conf.broker_heartbeat == heartbeat_s


def test_queues_are_quorum_with_a_delivery_limit_and_a_dead_letter_exchange(app: Celery) -> None:
    queues: list[Queue] = list(app.conf.task_queues)
    assert [q.name for q in queues] == ["site1.predict", "site1.explain", "site1.deliver"]
    for queue in queues:
        assert queue.durable
        assert queue.exchange.durable
        assert queue.queue_arguments == {
            "x-queue-type": "quorum",
            "x-delivery-limit": 5,
            "x-dead-letter-exchange": "site1.dead",
            "x-dead-letter-routing-key": "site1.dead",
        }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task_acks_late", True),
        ("task_reject_on_worker_lost", True),
        ("task_ignore_result", True),
        ("task_store_errors_even_if_ignored", False),
        ("result_backend", None),
        ("task_serializer", "json"),
        ("accept_content", ["json"]),
        ("worker_prefetch_multiplier", 1),
        ("worker_enable_remote_control", False),
        ("worker_send_task_events", False),
        ("task_publish_retry", False),
        ("task_create_missing_queues", False),
        ("broker_connection_max_retries", None),
        ("worker_hijack_root_logger", False),
    ],
)
def test_a_message_outlives_its_worker_and_carries_json_only(
    app: Celery, key: str, value: object
) -> None:
    assert app.conf[key] == value


def test_rabbitmq_confirms_every_message(tmp_path: Path) -> None:
    app = make_app(settings(tmp_path, queue={**AMQP, "confirm_timeout_s": 7.0}))
    assert app.conf.broker_transport_options == {"confirm_publish": True}
    assert app.conf.broker_url == AMQP["broker"]
    assert app.conf.broker_connection_timeout == 7.0


def test_a_broker_that_is_away_is_asked_every_few_seconds_however_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    waited: list[float] = []
    monkeypatch.setattr("kombu.utils.functional.sleep", slept.append)
    with pytest.raises(OperationalError):
        make_app(settings(tmp_path, queue=AMQP)).connection_for_read().ensure_connection(
            lambda _, wait_s: waited.append(wait_s), max_retries=20
        )
    assert len(waited) == 20
    assert max(waited) <= 5
    assert sum(slept) >= sum(waited)


def test_a_connection_that_says_nothing_is_given_up_within_the_lease(tmp_path: Path) -> None:
    config = settings(tmp_path, queue=AMQP)
    assert 0 < 2 * make_app(config).conf.broker_heartbeat < config.queue.lease_s


def test_the_embedded_broker_keeps_its_folders_to_itself(tmp_path: Path) -> None:
    config = settings(tmp_path)
    make_app(config)
    folders = sorted(p.name for p in (config.data_dir / "queue").iterdir())
    assert folders == ["control", "messages", "taken"]
    for name in folders:
        assert (config.data_dir / "queue" / name).stat().st_mode & 0o077 == 0


def test_dead_letters_need_no_queue_without_a_broker(tmp_path: Path) -> None:
    config = settings(tmp_path)
    declare_dead_letters(make_app(config), config)


def send(app: Celery, number: int) -> None:
    app.send_task("limen.predict", args=[f"key-{number}", "prediction"], queue="limen.predict")


def test_a_message_goes_through_the_file_system_whole(tmp_path: Path) -> None:
    config = settings(tmp_path)
    app = make_app(config)
    got: list[Any] = []

    def take(body: Any, message: Any) -> None:
        got.append(body[0])
        message.ack()

    with app.connection_for_read() as connection:
        queue = app.amqp.queues["limen.predict"]
        with connection.Consumer([queue], callbacks=[take], accept=["json"]):
            for number in range(3):
                send(app, number)
            while len(got) < 3:
                connection.drain_events(timeout=10)
    assert sorted(got) == [[f"key-{n}", "prediction"] for n in range(3)]
    assert list((config.data_dir / "queue" / "messages").iterdir()) == []


def test_a_reader_never_sees_half_a_message(tmp_path: Path) -> None:
    """kombu alone creates the file first and fills it afterwards."""
    config = settings(tmp_path)
    app = make_app(config)
    folder = config.data_dir / "queue" / "messages"
    done = threading.Event()
    halves: list[str] = []
    seen: set[str] = set()

    def read() -> None:
        while not done.is_set():
            for path in folder.glob("*.msg"):
                try:
                    json.loads(path.read_text("utf-8"))
                except ValueError:
                    halves.append(path.name)
                seen.add(path.name)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        send(app, number)
    done.set()
    reader.join()
    assert halves == []
    assert seen
    assert len(list(folder.glob("*.msg"))) == 100
    assert list(folder.glob(".*")) == []


def test_a_message_carries_a_key_and_nothing_of_the_patient(tmp_path: Path) -> None:
    config = settings(tmp_path)
    send(make_app(config), 1)
    (path,) = (config.data_dir / "queue" / "messages").glob("*.msg")
    message = json.loads(path.read_text("utf-8"))
    assert message["headers"]["argsrepr"] == "['key-1', 'prediction']"
    assert message["content-type"] == "application/json"
