"""I1, I3: whatever becomes of RabbitMQ costs latency, no study, and nobody's hand.

With the timers as they ship; the broker is the test's own, behind a proxy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.node import Node, copy_study, until
from tests.support.proxy import FROM_SERVER, Proxy
from tests.support.rabbitmq import RabbitMQ, rabbitmq

pytestmark = pytest.mark.timeout(600)

SILENT_S = 8.0
"""Longer than a publisher waits for a confirm."""
LONG = "5000"
"""Samples of an explanation that takes longer than the broker waits."""
IMPATIENT = (
    "application:set_env(rabbit, consumer_timeout, 2000)",
    "application:set_env(rabbit, channel_tick_interval, 1000).",
)
"""How long it waits for an acknowledgement, and how often it looks, in milliseconds."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(broker: RabbitMQ) -> Iterator[Proxy]:
    with Proxy(broker.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def node(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    url = f"amqp://guest:guest@127.0.0.1:{proxy.port}//"
    node = Node(folder, LIMEN_QUEUE__BROKER=url, LIMEN_EXPLAIN__MAX_EXPLAINED="1")
    try:
        node.start()
        yield node
    finally:
        node.close()


def restarted(broker: RabbitMQ, _: Proxy) -> Callable[[], object]:
    broker.control("stop_app")
    return lambda: broker.control("start_app")


def emptied(broker: RabbitMQ, _: Proxy) -> Callable[[], object]:
    """Its virtual host is deleted, with every queue, and made again."""
    broker.control("delete_vhost", "/")

    def make() -> None:
        broker.control("add_vhost", "/")
        broker.control("set_permissions", "guest", ".*", ".*", ".*")

    return make


def out_of_memory(broker: RabbitMQ, _: Proxy) -> Callable[[], object]:
    """Its alarm is on: who publishes is not read from any more."""
    broker.control("set_vm_memory_high_watermark", "0.000001")
    return lambda: broker.control("set_vm_memory_high_watermark", "0.4")


def without_queues(broker: RabbitMQ, _: Proxy) -> Callable[[], object]:
    """Its queues are deleted under those who consume them."""
    for name in ("predict", "explain", "deliver"):
        broker.control("delete_queue", f"limen.{name}")
    return lambda: None


def resetting(_: RabbitMQ, proxy: Proxy) -> Callable[[], object]:
    """Every connection is reset, ten times a second, before a message can be confirmed."""
    over = threading.Event()

    def go() -> None:
        while not over.wait(0.1):
            proxy.cut()

    thread = threading.Thread(target=go)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()

    return end


def forgotten(_: RabbitMQ, proxy: Proxy) -> Callable[[], object]:
    """A firewall has forgotten every connection, and tells nobody."""
    proxy.forget()
    return lambda: None


def held(*ways: str) -> Callable[[RabbitMQ, Proxy], Callable[[], object]]:
    """Nothing comes through for a while, and nobody is told."""

    def hold(_: RabbitMQ, proxy: Proxy) -> Callable[[], object]:
        holding = ExitStack()
        holding.enter_context(proxy.held(*ways))
        end_at = time.monotonic() + SILENT_S

        def end() -> None:
            time.sleep(max(0.0, end_at - time.monotonic()))  # the fault itself
            holding.close()

        return end

    return hold


FAULTS = {
    "restarted": restarted,
    "emptied": emptied,
    "out of memory": out_of_memory,
    "without queues": without_queues,
    "resetting": resetting,
    "never confirms": held(FROM_SERVER),
    "forgotten": forgotten,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_study_that_comes_while_the_broker_is_unwell_is_done_when_it_is_well(
    fault: Callable[[RabbitMQ, Proxy], Callable[[], object]],
    node: Node,
    broker: RabbitMQ,
    proxy: Proxy,
    phantoms: dict[str, DemoStudy],
    tmp_path: Path,
) -> None:
    ledger = Ledger()
    uid, files = copy_study(sorted(Path(phantoms["subdural"].folder).glob("*.dcm")), tmp_path)
    mend = fault(broker, proxy)
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
    row = node.finished(uid, timeout_s=120)
    assert (row.state, row.outcome) == ("done", "positive")
    assert audit(node, ledger) == []


def test_a_job_that_takes_longer_than_the_broker_waits_for_an_acknowledgement_is_done_once(
    node: Node, broker: RabbitMQ, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node.stop()
    broker.control("eval", ", ".join(IMPATIENT))
    node.env |= {"LIMEN_EXPLAIN__MODE": "reference", "LIMEN_EXPLAIN__SAMPLES": LONG}
    node.start()
    ledger = Ledger()
    slices = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, files = copy_study(slices, tmp_path / "long")
    node.send(files)
    ledger.note(files)
    row = node.finished(uid, timeout_s=240)
    assert "delivery acknowledgement" in broker.log()
    assert {work.attempts for work in (*row.jobs, *row.deliveries)} == {1}
    after, files = copy_study(slices[:1], tmp_path / "after", Modality="MR")
    node.send(files)
    ledger.note(files)
    assert node.finished(after).outcome == "not_analysed"
    assert audit(node, ledger) == []
    queues = broker.control("list_queues", "--no-table-headers", "name").split()
    assert sorted(queues) == [f"limen.{name}" for name in ("dead", "deliver", "explain", "predict")]
