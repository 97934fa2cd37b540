"""I2, I3, I4, I10: workers on hosts that share broker, database and bucket, and no folder.

Each host has a network of its own. On the first are receiver, results server, a worker that
delivers, RabbitMQ, PostgreSQL and the emulator of a bucket; on two others a worker each that
predicts and explains, with nothing but its settings.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gcp_storage_emulator.server import create_server

from limen.command.supervisor import Supervisor
from models.ich.phantom import DemoStudy
from tests.faults.audit import Ledger, audit
from tests.support.hosts import Hosts, hosts
from tests.support.node import Node, copy_study, until
from tests.support.ports import free_ports
from tests.support.postgresql import postgresql
from tests.support.rabbitmq import rabbitmq
from worker.destinations.registry import archive

# Google's library leaves sockets to the garbage collector, and asks for another one of its own.
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings(
        "ignore:unclosed:ResourceWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:Please install grpcio-status:ImportWarning",
    ),
]

BUCKET = "hospital"
LEASE_S = 10.0
FIRST, SECOND, THIRD = "first", "second", "third"
ENDLESS = {"LIMEN_EXPLAIN__MODE": "reference", "LIMEN_EXPLAIN__SAMPLES": "100000"}
"""An explanation that is still being made when the cable of its host is pulled."""
SHORT = {"LIMEN_EXPLAIN__MAX_EXPLAINED": "1", "LIMEN_EXPLAIN__SAMPLES": "20"}
"""One that is made beside it, on the same cores."""


class Site:
    """The hosts, the node on the first, and the workers on the others."""

    def __init__(self, network: Hosts, node: Node, folder: Path) -> None:
        self.network = network
        self.node = node
        self.data = {name: folder / name / "data" for name in (SECOND, THIRD)}
        self.workers = {
            SECOND: Supervisor(self._environment(SECOND) | ENDLESS, folder / SECOND / "logs"),
            THIRD: Supervisor(self._environment(THIRD) | SHORT, folder / THIRD / "logs"),
        }

    def _environment(self, name: str) -> dict[str, str]:
        """Return the settings of a host that has no receiver, no spool and no open port."""
        own = {
            "LIMEN_NODE__DATA_DIR": str(self.data[name]),
            "LIMEN_WORKER__LANES": '["predict", "explain"]',
        }
        return self.node.env | own

    def start(self, name: str) -> None:
        """Start the worker of a host there."""
        with self.network.inside(name):
            self.workers[name].start(("worker",))

    def end(self) -> None:
        """End the workers at once: one of them would not be done for an hour."""
        for worker in self.workers.values():
            with contextlib.suppress(KeyError, ProcessLookupError):
                os.kill(worker.pid("worker"), signal.SIGKILL)
            worker.stop()

    def download(self) -> None:
        """Bring all that is in the bucket where the auditor looks for the archive."""
        bucket = archive(self.node.config)
        for study_key in bucket.studies():
            for one in bucket.below(study_key):
                path = self.node.config.archive_dir / one.name
                path.parent.mkdir(parents=True, exist_ok=True)
                assert bucket.get(one.name, path)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with ExitStack() as stack:
        network = stack.enter_context(hosts(FIRST, SECOND, THIRD))
        stack.enter_context(network.inside(FIRST))
        address = network.address(FIRST)
        (tmp_path / "rabbitmq").mkdir()
        remote = "loopback_users = none\n"
        broker = stack.enter_context(rabbitmq(tmp_path / "rabbitmq", remote, address))
        database = stack.enter_context(postgresql("limen", address=address))
        (port,) = free_ports(1)
        bucket = create_server(address, port, in_memory=True, default_bucket=BUCKET)
        bucket.start()
        stack.callback(bucket.stop)
        url = f"http://{address}:{port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        node = Node(
            tmp_path / FIRST,
            STORAGE_EMULATOR_HOST=url,
            LIMEN_QUEUE__BROKER=f"amqp://guest:guest@{address}:{broker.port}//",
            LIMEN_QUEUE__LEASE_S=str(LEASE_S),
            LIMEN_JOURNAL__URL=database.url("limen"),
            LIMEN_DESTINATION__ARCHIVE__BUCKET=BUCKET,
            LIMEN_WORKER__SOURCE="archive",
            LIMEN_WORKER__LANES='["deliver"]',
        )
        stack.callback(node.close)
        node.start()
        made = Site(network, node, tmp_path)
        stack.callback(made.end)
        yield made


def test_a_cable_that_is_pulled_costs_a_lease_and_nothing_is_lost_or_doubled(
    site: Site, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    node, ledger = site.node, Ledger()
    sources = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))
    uid, files = copy_study(sources, tmp_path / "study")

    def explanation() -> tuple[str, int]:
        jobs = [j for r in node.rows(uid) for j in r.jobs if j.phase == "explanation"]
        return (jobs[0].state, jobs[0].attempts) if jobs else ("", 0)

    site.start(SECOND)
    node.send(files)
    ledger.note(files)
    until(lambda: explanation() == ("running", 1), 120, "the explanation", node.tell)
    site.start(THIRD)
    assert [worker.late for worker in node.journal.status.workers()] == [False] * 3
    site.network.pull(SECOND)
    pulled = time.monotonic()
    within = LEASE_S + 5
    until(lambda: explanation()[1] == 2, within + 5, "the second attempt", node.tell)
    assert time.monotonic() - pulled < within
    row = node.finished(uid, timeout_s=120)
    assert (row.state, row.outcome, row.revision) == ("done", "positive", 1)
    assert any(worker.late for worker in node.journal.status.workers())
    site.network.plug(SECOND)
    seen = node.journal.status.workers
    until(lambda: not any(w.late for w in seen()), 60, "the worker that was cut off", node.tell)
    assert [path for data in site.data.values() for path in data.glob("spool")] == []
    site.download()
    assert audit(node, ledger) == []
