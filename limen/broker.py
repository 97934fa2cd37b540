"""The Celery app: queues and settings. No task code.

A message carries a key and the name of a lane, nothing else. It may be lost, doubled or late:
the journal decides. RabbitMQ holds the queues in production; ``filesystem://`` needs no broker.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection, Exchange, Queue
from kombu.transport import filesystem

from limen.config import Config
from limen.durable import beside
from limen.result import Phase
from limen.states import SHADOW_LANE

__all__ = ["LANE_TASKS", "dead_letters", "declare_dead_letters", "make_app", "queue_names"]

PREDICT, EXPLAIN, DELIVER = "predict", "explain", "deliver"
LANE_TASKS = {
    Phase.PREDICTION.value: PREDICT,
    Phase.EXPLANATION.value: EXPLAIN,
    SHADOW_LANE: PREDICT,
}
"""Lane -> its task; every other lane is a destination, served by ``deliver``.

A message that finds its lane full is dropped, so shadows hold up no prediction.
"""

_DELIVERY_LIMIT = 5
_POLL_S = 0.1
_SHORTEST_HEARTBEAT_S = 2
_RECONNECT = {"interval_start": 1, "interval_step": 1, "interval_max": 4}  # seconds


class _WholeFiles(filesystem.Channel):  # type: ignore[misc]
    """kombu's file-system channel writes a message in place; a reader may then see half of it."""

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:
        folder = Path(self.data_folder_out)
        name = f"{round(time.monotonic() * 1000)}_{uuid.uuid4()}.{queue}.msg"
        with beside(folder / name) as part:
            part.write_text(json.dumps(payload), "utf-8")


class FilesystemTransport(filesystem.Transport):  # type: ignore[misc]
    """The file-system transport with whole messages only."""

    Channel = _WholeFiles


class _Connection(Connection):  # type: ignore[misc]
    """kombu asks a broker that is away every 30 s in the end; a study would wait for that."""

    def _ensure_connection(self, *args: Any, **more: Any) -> Any:
        return super()._ensure_connection(*args, **(_RECONNECT | more))


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _Connection


def queue_names(config: Config) -> dict[str, str]:
    """Return task name -> queue name."""
    return {task: f"{config.queue.prefix}.{task}" for task in (PREDICT, EXPLAIN, DELIVER)}


def make_app(config: Config) -> Celery:
    """Build the Celery app of this installation.

    ``acks_late`` with ``reject_on_worker_lost``: a message outlives its worker. No ETA, no result
    backend, no remote control; retries live in the journal.
    """
    embedded = config.queue.broker == "filesystem://"
    app = Celery("limen", amqp=_Amqp, set_as_current=False)
    app.conf.update(
        broker_url="filesystem://localhost/" if embedded else config.queue.broker,
        broker_transport_options=_filesystem(config) if embedded else {"confirm_publish": True},
        # A host whose cable was pulled is known by its silence before the leases of its worker end:
        # else the message that starts its work elsewhere may go to the connection that is dead.
        broker_heartbeat=max(_SHORTEST_HEARTBEAT_S, round(config.queue.lease_s / 3)),
        broker_connection_timeout=config.queue.confirm_timeout_s,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        accept_content=["json"],
        task_serializer="json",
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_publish_retry=False,
        task_queues=[_queue(name, config) for name in queue_names(config).values()],
        task_create_missing_queues=False,
        task_default_queue=f"{config.queue.prefix}.{DELIVER}",
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
    )
    if embedded:
        app.conf.broker_transport = "limen.broker:FilesystemTransport"
    return app


def _queue(name: str, config: Config) -> Queue:
    dead = f"{config.queue.prefix}.dead"
    return Queue(
        name,
        Exchange(config.queue.prefix, type="direct", durable=True),
        routing_key=name,
        durable=True,
        queue_arguments={
            "x-queue-type": "quorum",
            "x-delivery-limit": _DELIVERY_LIMIT,  # RabbitMQ 3.10 sets none by itself
            "x-dead-letter-exchange": dead,
            "x-dead-letter-routing-key": dead,
        },
    )


def declare_dead_letters(app: Celery, config: Config) -> None:
    """Declare the queue of what RabbitMQ gave up on, and its exchange."""
    if config.queue.broker == "filesystem://":
        return
    with app.connection_for_write() as connection:
        dead_letters(config)(connection.default_channel).declare()


def dead_letters(config: Config) -> Queue:
    """Return the queue where RabbitMQ puts a message it gave up on."""
    dead = f"{config.queue.prefix}.dead"
    return Queue(
        dead,
        Exchange(dead, type="direct", durable=True),
        routing_key=dead,
        queue_arguments={"x-queue-type": "quorum", "x-max-length": 10_000},
    )


def _filesystem(config: Config) -> dict[str, Any]:
    folder = config.data_dir / "queue"
    names = {
        "data_folder_in": folder / "messages",
        "data_folder_out": folder / "messages",
        "control_folder": folder / "control",
        "processed_folder": folder / "taken",
    }
    for path in names.values():
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return {**{k: str(v) for k, v in names.items()}, "polling_interval": _POLL_S}
