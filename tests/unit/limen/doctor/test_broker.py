"""limen.doctor.broker: RabbitMQ that is away, refuses, lacks or holds back; what is told."""

from __future__ import annotations

import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import amqp
import pytest

from limen.broker import declare_dead_letters, make_app
from limen.doctor.check import Node, Verdict
from tests.support.doctor import fault, findings, node_of
from tests.support.ports import free_ports
from tests.support.services import answers, program, require_service

BROKER = "amqp://guest:guest@127.0.0.1:5672//"


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[Node]:
    """A node with queues of its own in RabbitMQ, not declared yet."""
    require_service(answers(5672), "RabbitMQ does not answer on 127.0.0.1:5672")
    prefix = f"limen-test-{uuid.uuid4().hex[:8]}"
    yield node_of(tmp_path, f'[queue]\nbroker = "{BROKER}"\nprefix = "{prefix}"\n')
    with amqp.Connection("127.0.0.1:5672") as connection:
        channel = connection.channel()
        for queue in ("predict", "explain", "deliver", "dead"):
            channel.queue_delete(f"{prefix}.{queue}")
        channel.exchange_delete(prefix)
        channel.exchange_delete(f"{prefix}.dead")


def declare(node: Node) -> None:
    app = make_app(node.settings)
    declare_dead_letters(app, node.settings)
    with app.connection_for_write() as connection:
        for queue in app.conf.task_queues:
            queue(connection.default_channel).declare()


def test_queues_that_are_not_there_are_told_and_not_made(rabbit: Node) -> None:
    prefix = rabbit.settings.queue.prefix
    found = [f.text for f in findings(rabbit, "broker") if f.verdict is Verdict.FAILED]
    assert found == [
        f"there is no queue {prefix}.{name}" for name in ("predict", "explain", "deliver", "dead")
    ]
    assert found == [f.text for f in findings(rabbit, "broker") if f.verdict is Verdict.FAILED]


def test_queues_that_nobody_takes_from_are_warnings(rabbit: Node) -> None:
    declare(rabbit)
    found = findings(rabbit, "broker")
    assert [f.verdict for f in found].count(Verdict.WARNING) == 3
    assert not [f for f in found if f.verdict is Verdict.FAILED]
    assert "a quorum queue" in found[1].text
    assert found[-1].text == "RabbitMQ confirms messages"


def test_a_queue_that_is_no_quorum_queue_is_told_with_what_it_is(rabbit: Node) -> None:
    declare(rabbit)
    name = f"{rabbit.settings.queue.prefix}.explain"
    with amqp.Connection("127.0.0.1:5672") as connection:
        channel = connection.channel()
        channel.queue_delete(name)
        dead = f"{rabbit.settings.queue.prefix}.dead"
        others = {"x-dead-letter-exchange": dead, "x-dead-letter-routing-key": dead}
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=others)
    told = fault(rabbit, "broker")
    assert f"the queue {name} is not as Limen declares it" in told
    assert "x-queue-type" in told
    assert f"rabbitmqctl delete_queue {name}" in told


@pytest.mark.parametrize(
    ("broker", "why"),
    [
        ("amqp://guest:falsch@127.0.0.1:5672//", "refuses user or password"),
        ("amqp://guest:guest@127.0.0.1:5672/nirgends", "virtual host nirgends"),
    ],
)
def test_a_broker_that_does_not_let_us_in_is_told_why(
    tmp_path: Path, broker: str, why: str
) -> None:
    require_service(answers(5672), "RabbitMQ does not answer on 127.0.0.1:5672")
    told = fault(node_of(tmp_path, f'[queue]\nbroker = "{broker}"\n'), "broker")
    assert why in told
    assert "falsch" not in told


def test_a_broker_that_is_away_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    told = fault(node_of(tmp_path, f'[queue]\nbroker = "amqp://127.0.0.1:{port}//"\n'), "broker")
    assert f"127.0.0.1:{port}" in told
    assert "start RabbitMQ" in told


# -- rights, limits, alarms ------------------------------------------------------------------------


def rabbitmqctl(*words: str) -> None:
    path = program("rabbitmqctl", "rabbitmq-server")
    done = subprocess.run([path, "-q", *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def apart() -> Iterator[str]:
    """A virtual host and a user of this module alone, both of that name."""
    require_service(answers(5672), "RabbitMQ does not answer on 127.0.0.1:5672")
    name = f"limen-test-{uuid.uuid4().hex[:8]}"
    rabbitmqctl("add_vhost", name)
    rabbitmqctl("add_user", name, "geheim")
    try:
        yield name
    finally:
        rabbitmqctl("delete_user", name)
        rabbitmqctl("delete_vhost", name)


def node_apart(folder: Path, name: str) -> Node:
    url = f"amqp://{name}:geheim@127.0.0.1:5672/{name}"
    return node_of(folder, f'[queue]\nbroker = "{url}"\n')


def test_a_user_without_rights_is_told_which_it_needs(tmp_path: Path, apart: str) -> None:
    node = node_apart(tmp_path, apart)
    rabbitmqctl("set_permissions", "-p", apart, apart, "^limen.*", "^limen.*", "^limen.*")
    declare(node)
    assert findings(node, "broker")[-1].text == "RabbitMQ confirms messages"
    rabbitmqctl("set_permissions", "-p", apart, apart, "^$", "^$", "^$")
    told = [f"{f.text} -> {f.next}" for f in findings(node, "broker")]
    assert sum("does not let us declare the queue limen." in line for line in told) == 4
    assert "does not let us send to limen -> give the user its rights" in told[-1]
    assert "'^limen.*'" in told[-1]
    assert not [line for line in told if "geheim" in line]


def test_a_virtual_host_that_is_full_is_told_as_that(tmp_path: Path, apart: str) -> None:
    rabbitmqctl("set_vhost_limits", "-p", apart, '{"max-connections": 0}')
    told = fault(node_apart(tmp_path, apart), "broker")
    assert f"lets no more connections into its virtual host {apart}" in told


@contextmanager
def under_alarm() -> Iterator[int]:
    """Run what stands between us and RabbitMQ as RabbitMQ under an alarm does; yield its port.

    It reads no more from a connection that publishes (https://www.rabbitmq.com/docs/alarms), and
    lets everything else through. The alarm itself would hold up every other test of this machine.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = [listener]

    def pump(source: socket.socket, sink: socket.socket, *, stops: bool) -> None:
        try:
            while data := source.recv(65536):
                if stops and _PUBLISH in data:
                    return
                sink.sendall(data)
        except OSError:
            return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", 5672))
            sockets.extend((client, server))
            for pair, stops in (((client, server), True), ((server, client), False)):
                thread = threading.Thread(target=pump, args=pair, kwargs={"stops": stops})
                thread.start()
                threads.append(thread)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in (accepting, *threads):
            thread.join(10)


_PUBLISH = b"\x00\x3c\x00\x28"
"""Basic.Publish: class 60, method 40."""


def test_a_broker_that_takes_no_message_for_an_alarm_is_told(rabbit: Node, tmp_path: Path) -> None:
    declare(rabbit)
    with under_alarm() as port:
        prefix = rabbit.settings.queue.prefix
        node = node_of(
            tmp_path,
            f'[queue]\nbroker = "amqp://guest:guest@127.0.0.1:{port}//"\nprefix = "{prefix}"\n'
            "confirm_timeout_s = 0.5\n",
        )
        told = fault(node, "broker")
    assert "takes no message" in told
    assert "rabbitmq-diagnostics alarms" in told


def test_a_queue_that_belongs_to_another_connection_is_told(rabbit: Node) -> None:
    declare(rabbit)
    name = f"{rabbit.settings.queue.prefix}.explain"
    with amqp.Connection("127.0.0.1:5672") as connection:
        channel = connection.channel()
        channel.queue_delete(name)
        channel.queue_declare(name, exclusive=True)
        told = fault(rabbit, "broker")
    assert f"the queue {name} belongs to another connection alone" in told
    assert "queue.prefix" in told


def test_messages_that_were_given_up_are_a_warning(rabbit: Node) -> None:
    declare(rabbit)
    dead = f"{rabbit.settings.queue.prefix}.dead"
    with amqp.Connection("127.0.0.1:5672", confirm_publish=True) as connection:
        connection.channel().basic_publish(amqp.Message(b"{}"), exchange="", routing_key=dead)
    told = [f"{f.text} -> {f.next}" for f in findings(rabbit, "broker") if "gave" in f.text]
    assert len(told) == 1
    assert "RabbitMQ gave 1 messages up" in told[0]
    assert f"rabbitmqctl purge_queue {dead}" in told[0]


# -- no broker -------------------------------------------------------------------------------------


def test_a_folder_of_messages_that_is_not_there_is_told(tmp_path: Path) -> None:
    told = fault(node_of(tmp_path), "broker")
    assert "there is no folder" in told
    assert "limen up" in told


def test_a_folder_of_messages_counts_what_waits(tmp_path: Path) -> None:
    node = node_of(tmp_path)
    messages = node.settings.data_dir / "queue" / "messages"
    messages.mkdir(parents=True)
    (messages / "1.msg").touch()
    (found,) = findings(node, "broker")
    assert (found.verdict, "with 1 messages waiting" in found.text) == (Verdict.OK, True)
