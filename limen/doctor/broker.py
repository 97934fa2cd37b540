"""The broker: whether it answers, has the queues as Limen declares them, and takes messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import amqp
from kombu import Connection, Queue

from limen.broker import dead_letters, make_app
from limen.doctor.check import Finding, Node, failed, ok, skipped, warning

__all__ = ["broker"]

_T = TypeVar("_T")


def broker(node: Node) -> Iterator[Finding]:
    """Look at the broker that the settings name."""
    if node.settings.queue.address is None:
        yield _folder(node)
        return
    host, port = node.settings.queue.address
    at = f"{host}:{port}"
    app = make_app(node.settings)
    timeout_s = node.settings.queue.confirm_timeout_s
    with app.connection_for_write(connect_timeout=timeout_s) as connection:
        try:
            connection.connect()
        except (OSError, amqp.AMQPError) as exc:
            yield _no_connection(exc, at, connection.virtual_host or "/")
            return
        said = connection.connection.server_properties.get("version", "")
        yield ok(f"RabbitMQ {said} at {at} lets us in")
        dead = dead_letters(node.settings)
        for queue in (*app.conf.task_queues, dead):
            yield _queue(connection, queue, consumed=queue is not dead)
        yield _takes_messages(connection, node.settings.queue.prefix, timeout_s)


def _folder(node: Node) -> Finding:
    folder = node.settings.data_dir / "queue" / "messages"
    if not folder.is_dir():
        return failed(
            f"there is no folder {folder} for the messages", "start Limen there: `limen up`"
        )
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return failed(
            f"the folder of the messages, {folder}, is not open to this account",
            "run this as the account that Limen runs as, and give that account the folder (chown)",
        )
    count = sum(1 for _ in folder.glob("*.msg"))
    return ok(f"no broker: a folder, with {count} messages waiting")


def _no_connection(error: Exception, at: str, vhost: str) -> Finding:
    if isinstance(error, amqp.AccessRefused):
        return failed(
            f"RabbitMQ at {at} refuses user or password",
            "put queue.broker right, or make the user: rabbitmqctl add_user",
        )
    if isinstance(error, amqp.NotAllowed) and "limit" in str(error.reply_text):
        return failed(
            f"RabbitMQ at {at} lets no more connections into its virtual host {vhost}",
            "rabbitmqctl list_vhost_limits and list_connections say why; raise the limit, or end "
            "what else connects",
        )
    if isinstance(error, amqp.NotAllowed):
        return failed(
            f"RabbitMQ at {at} does not let us into its virtual host {vhost}",
            "put queue.broker right, or make it and give the user its rights: rabbitmqctl "
            "add_vhost, set_permissions",
        )
    return failed(
        f"nobody lets us in at {at} ({getattr(error, 'strerror', '') or type(error).__name__})",
        "start RabbitMQ, or put queue.broker right; nothing is lost meanwhile",
    )


def _queue(connection: Connection, queue: Queue, *, consumed: bool) -> Finding:
    """Look for a queue, then whether it is of the type and has the limits that we declare."""
    try:
        found = _in_a_channel(connection, lambda c: queue(c).queue_declare(passive=True))
        # Declaring what is there compares; it makes nothing.
        _in_a_channel(connection, lambda c: queue(c).queue_declare())
    except (amqp.NotFound, amqp.AccessRefused, amqp.ResourceLocked, amqp.PreconditionFailed) as exc:
        return _no_queue(exc, queue)
    if not consumed:
        return _dead(queue, found.message_count)
    said = f"{queue.name}: a quorum queue, {found.message_count} waiting"
    if not found.consumer_count:
        return warning(f"{said}, and nobody takes from it", "start a worker: `limen worker`")
    return ok(f"{said}, {found.consumer_count} consumers")


def _no_queue(error: amqp.AMQPError, queue: Queue) -> Finding:
    if isinstance(error, amqp.NotFound):
        return failed(
            f"there is no queue {queue.name}",
            "start a worker, which declares it: `limen worker`; or put queue.prefix right",
        )
    if isinstance(error, amqp.AccessRefused):
        return failed(
            f"RabbitMQ does not let us declare the queue {queue.name}", _rights(queue.exchange.name)
        )
    if isinstance(error, amqp.ResourceLocked):
        return failed(
            f"the queue {queue.name} belongs to another connection alone",
            "stop what declared it, or choose another queue.prefix",
        )
    return failed(
        f"the queue {queue.name} is not as Limen declares it ({error.reply_text})",
        f"stop the workers, delete it (rabbitmqctl delete_queue {queue.name}) and start them: "
        "what it held is sent again",
    )


def _dead(queue: Queue, count: int) -> Finding:
    if not count:
        return ok(f"{queue.name}: no message was given up")
    return warning(
        f"{queue.name}: RabbitMQ gave {count} messages up; the journal has sent their work again",
        "look why workers died (`limen status`), then rabbitmqctl purge_queue " + queue.name,
    )


def _rights(prefix: str) -> str:
    """Return how the user of the broker gets the rights that Limen needs."""
    return f"give the user its rights: rabbitmqctl set_permissions, each '^{prefix}.*' or more"


def _takes_messages(connection: Connection, prefix: str, timeout_s: float) -> Finding:
    """Publish a message that nobody gets, and wait for the confirm: alarms of RabbitMQ hold it."""

    channel = connection.channel()
    try:
        channel.basic_publish(
            amqp.Message(b""),
            exchange=prefix,
            routing_key=f"{prefix}.doctor",
            confirm_timeout=timeout_s,
        )
        channel.close()
    except amqp.NotFound:
        return skipped("no message was sent: without queues there is nowhere to send it to")
    except amqp.AccessRefused:
        return failed(f"RabbitMQ does not let us send to {prefix}", _rights(prefix))
    except (OSError, amqp.AMQPError) as exc:
        connection.collect(timeout_s)  # who reads nothing answers no goodbye either
        return failed(
            f"RabbitMQ takes no message ({type(exc).__name__}): an alarm for memory or disk",
            "rabbitmq-diagnostics alarms says which; make room, or raise its limit",
        )
    return ok("RabbitMQ confirms messages")


def _in_a_channel(connection: Connection, use: Callable[[Any], _T]) -> _T:
    """Use a channel of its own: RabbitMQ closes one whose request it refuses."""
    channel = connection.channel()
    try:
        return use(channel)
    finally:
        if channel.is_open:
            channel.close()
