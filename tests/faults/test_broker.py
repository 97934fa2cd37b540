"""I1, I3: whatever becomes of RabbitMQ costs latency, no study, and nobody's hand.

With the timers as they ship; the broker is the test's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study, until
from tests.support.rabbitmq import RabbitMQ, rabbitmq

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="module")
def node(broker: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    url = f"amqp://guest:guest@127.0.0.1:{broker.port}//"
    node = Node(folder, LIMEN_QUEUE__BROKER=url)
    try:
        node.start()
        yield node
    finally:
        node.close()


def restarted(broker: RabbitMQ) -> Callable[[], object]:
    broker.control("stop_app")
    return lambda: broker.control("start_app")


def emptied(broker: RabbitMQ) -> Callable[[], object]:
    """Its virtual host is deleted, with every queue, and made again."""
    broker.control("delete_vhost", "/")

    def make() -> None:
        broker.control("add_vhost", "/")
        broker.control("set_permissions", "guest", ".*", ".*", ".*")

    return make


def out_of_memory(broker: RabbitMQ) -> Callable[[], object]:
    """Its alarm is on: who publishes is not read from any more."""
    broker.control("set_vm_memory_high_watermark", "0.000001")
    return lambda: broker.control("set_vm_memory_high_watermark", "0.4")


@pytest.mark.parametrize("fault", [restarted, emptied, out_of_memory])
def test_a_study_that_comes_while_the_broker_is_unwell_is_done_when_it_is_well(
    fault: Callable[[RabbitMQ], Callable[[], object]],
    node: Node,
    broker: RabbitMQ,
    phantoms: dict[str, DemoStudy],
    tmp_path: Path,
) -> None:
    ledger = Ledger()
    uid, files = copy_study(sorted(Path(phantoms["subdural"].folder).glob("*.dcm")), tmp_path)
    mend = fault(broker)
    try:
        assert node.send(files).sent == len(files)
        ledger.note(files)
        until(
            lambda: [r for r in node.rows(uid) if r.state != "receiving"],
            30,
            "the study to be complete",
        )
    finally:
        mend()
    row = node.finished(uid, timeout_s=60)
    assert (row.state, row.outcome) == ("done", "positive")
    assert audit(node, ledger) == []
